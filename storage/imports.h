/* imports: does the server program touch files through calls that the layer does not know? */
#ifndef STORAGE_IMPORTS_H
#define STORAGE_IMPORTS_H

#include <stdbool.h>

#include "common/err.h"

/* Compare what the main program imports with the layer's table; a call that would go round the layer is ERR_REFUSED.
 * io_uring: liburing's calls are known, because a setting says that they are not used. */
int imports_check(bool io_uring, struct err *err);
/* Is name a file call that the layer neither handles nor knows to be harmless? */
bool imports_unknown(const char *name);

#endif
