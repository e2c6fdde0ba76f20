// What the layering test must refuse: a folder that stands in no line.
#include "attic/high.h"
