/*
 * A disk that does not let the journal of WAL pages go, for tests/t/119_storage_journal_stays.pl: preloaded in front of
 * the storage layer, it fails the removal of the journal while the file that JOURNAL_STAYS names is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "syscall.h"

static long
on_syscall(long call, const long a[static 6])
{
	const char *flag = getenv("JOURNAL_STAYS"), *name = call == SYS_unlinkat ? (const char *)a[1] : NULL;

	if (name != NULL && flag != NULL && strstr(name, "pgsql_tmp_walcrypt.journal") != NULL &&
	    real(SYS_faccessat, AT_FDCWD, flag, F_OK) == 0 && real(SYS_faccessat, AT_FDCWD, name, F_OK) == 0) {
		errno = EIO;
		return -1;
	}
	return pass(call, a);
}
