// What the layering test must refuse: a policy includes the cache.
#include "memory/cache/high.h"
