#include "core/low.h"
#include "memory/attention/low.h"
#include "memory/low.h"
#include "memory/policy/other.h"
