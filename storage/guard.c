/*
 * guard: this library as a module of the server, named in shared_preload_libraries of encrypted directories.
 *
 * A stock standby without the layer does not stop by itself: it waits, or replays clear WAL over ciphertext (R9). So
 * the module ends the start unless the layer works in this process. No header of the server is included: what a module
 * needs is built by hand for the version that runs.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "storage/interpose.h"
#include "storage/process.h"
#include "storage/report.h"
#include "storage/unlock.h"

/* fmgr.h: Pg_magic_struct of PostgreSQL 15 to 18; up to 17 it ends before the module's name. */
struct magic {
	int len, version, funcmaxargs, indexmaxkeys, namedatalen, float8byval;
	char abi_extra[32];
	const char *module_name, *module_version;
};

INTERPOSED const void *Pg_magic_func(void);
INTERPOSED void _PG_init(void);
INTERPOSED bool walcrypt_layer_active(void);

const void *
Pg_magic_func(void)
{
	static struct magic magic = {0, 0, 100, 32, 64, 1, "PostgreSQL", "walcrypt", NULL};
	int major = process_major();

	/* of a version that we do not know: it refuses the module by itself */
	magic.len = (int)(major < 18 ? offsetof(struct magic, module_name) : sizeof(magic));
	magic.version = 100 * major;
	return &magic;
}

/* Do this process's file calls go through the layer, with keys? */
bool
walcrypt_layer_active(void)
{
	return process.preloaded && process.program == PROGRAM_SERVER && keys.set != NULL;
}

/* Another copy of this library may have been loaded as the module: the preloaded one answers in the global scope. */
void
_PG_init(void)
{
	bool (*active)(void) = (bool (*)(void))process_symbol("walcrypt_layer_active");
	struct err err;

	if (active != NULL && active())
		return;
	err_set(&err, ERR_REFUSED, "this data directory is encrypted and the server runs without walcrypt's storage layer");
	err_hint(&err,
	         "Start it with \"walcrypt-ctl exec -D DIRECTORY -- pg_ctl start -D DIRECTORY\", or set LD_PRELOAD and "
	         "WALCRYPT_KEK in the service's environment.");
	report(REPORT_FATAL, &err); /* so that the line goes where the server's log goes, and its lock file away */
	process_die(&err);
}
