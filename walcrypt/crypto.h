/* crypto: what the files that call libcrypto share: its errors as ours. Private to walcrypt/. */
#ifndef WALCRYPT_CRYPTO_H
#define WALCRYPT_CRYPTO_H

#include "common/err.h"

/* err: "what: reason libcrypto gives", class ERR_FAILED; empties the thread's error queue. Returns -1. */
int crypto_err(struct err *err, const char *what);

#endif
