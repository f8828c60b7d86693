/* access: what a configuration says about who gets in, read from its files: certificates, users, the secret of mocks.
 */
#ifndef PROXY_ACCESS_H
#define PROXY_ACCESS_H

#include <stdint.h>

#include "common/settings.h"
#include "proxy/tls.h"
#include "replication/userlist.h"

/* An open file that holds secrets: refused unless it is a plain file of this user, mode 0600 or less, or of root, 0640.
 * what: "key file" ... */
int access_check_file(int fd, const char *what, const char *path, struct err *err);
/* What the settings name; *tls and *users stay NULL when they name none. The caller frees them, after an error too. */
int access_load(const struct settings *settings, struct tls **tls, struct userlist **users, struct err *err);
/* The keystore's secret that mock verifiers come from, made when it is not there; the same for all proxies on a
 * keystore. */
int access_mock(const struct settings *settings, uint8_t out[static VERIFIER_SECRET_LEN], struct err *err);

#endif
