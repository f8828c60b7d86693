/*
 * walsource: where walsenders take WAL from (R6).
 *
 * From 17 on a walsender copies recent WAL out of the server's shared buffers, where it is clear, and older WAL out of
 * files, where it is not. A stream of both is of no use to anybody, so it is one or the other:
 *
 *   files  (the default) the server's WALReadFromBuffers is made to return 0, which tells its caller to read the file:
 *          the stream is the ciphertext on disk. Refused unless the program really calls that function: a build that
 *          has inlined it would go on reading buffers.
 *   clear  walsenders see clear WAL in files too; every replication connection has to be inside TLS. What is at the
 *          other end has to encrypt: a standby under the storage layer, or the proxy.
 *
 * WALCRYPT_WALSENDER says which; both exist for 15 and 16 too, where files need no patch.
 */
#ifndef STORAGE_WALSOURCE_H
#define STORAGE_WALSOURCE_H

#include <stdbool.h>

#include "common/err.h"

/* Once, in the process that unlocks a server, before it forks. */
int walsource_init(struct err *err);
/* Do walsenders stream clear WAL? */
bool walsource_clear(void);

#endif
