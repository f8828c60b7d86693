/*
 * A program called postgres that says of itself what the test wants: the settings in its environment (TEST_name), the
 * symbols that it was compiled with. It makes its lock file, as a server does, and says so: by then the storage layer
 * has looked at it.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int MyBackendType;
bool am_walsender, IsPostmasterEnvironment = true, enableFsync = true;
const char *debug_query_string;
void (*ClientAuthentication_hook)(void *, int);

const char *
GetConfigOption(const char *name, bool missing_ok, bool restricted)
{
	char variable[128];

	(void)missing_ok;
	(void)restricted;
	snprintf(variable, sizeof(variable), "TEST_%s", name);
	return getenv(variable);
}

#ifndef NO_BACKEND_TYPES
const char *
GetBackendTypeDesc(int type)
{
	return type == 0 ? "not initialized" : "client backend";
}
#endif

uint64_t
GetXLogInsertRecPtr(void)
{
	return 0;
}

uint32_t
GetWALInsertionTimeLine(void)
{
	return 1;
}

bool
RecoveryInProgress(void)
{
	return false;
}

#ifdef TLS
const char *
be_tls_get_version(void *port)
{
	return port;
}
#endif

#ifdef BUFFERS
__attribute__((noinline, noclone)) size_t
WALReadFromBuffers(char *to, uint64_t start, size_t count, uint32_t tli)
{
	return to != NULL ? count + start + tli : 1;
}
#endif

#ifdef IMPORT
extern int IMPORT(void);
#endif

int
main(int argc, char **argv)
{
	size_t read = 0;

	if (argc < 2 || chdir(argv[1]) != 0)
		return 2;
#ifdef IMPORT
	if (argc > 2) /* never, but the import is there */
		IMPORT();
#endif
	if (open("postmaster.pid", O_RDWR | O_CREAT | O_EXCL, 0600) < 0)
		return 3;
#ifdef CALLED
	read = WALReadFromBuffers(argv[1], 1, 2, 3);
#endif
	printf("started, %zu bytes from buffers\n", read);
	return 0;
}
