// What the layering test must refuse: what all folders of memory share includes one of them.
#include "memory/policy/high.h"
