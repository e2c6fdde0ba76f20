// What the layering test must refuse: the lowest folder includes a higher one.
#include "model/model.h"
