#include "core/other.h"
