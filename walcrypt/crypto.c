#include "walcrypt/crypto.h"

#include <openssl/err.h>

int
crypto_err(struct err *err, const char *what)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	if (reason == NULL)
		reason = "the library gives no reason";
	return err_set(err, ERR_FAILED, "%s: %s", what, reason);
}
