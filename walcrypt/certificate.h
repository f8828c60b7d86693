/* certificate: what a program that has no TLS connection wants to know of an X.509 certificate. */
#ifndef WALCRYPT_CERTIFICATE_H
#define WALCRYPT_CERTIFICATE_H

#include <stddef.h>
#include <time.h>

#include "common/err.h"

/* When the first certificate of a PEM text stops to be good. ERR_FAILED when there is none. */
int certificate_end(const void *pem, size_t len, time_t *end, struct err *err);

#endif
