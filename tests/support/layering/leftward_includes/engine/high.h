#include "memory/cache/any.h"
