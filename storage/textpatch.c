#include "storage/textpatch.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "storage/process.h"

static int
write_text(uint8_t *at, const uint8_t bytes[static TEXTPATCH_LEN], struct err *err)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)at / page * page;
	size_t len = (uintptr_t)at + TEXTPATCH_LEN - start;
	sigset_t all, before;
	int rc = 0;

	/* never writable and executable at a time; a signal handler of the server may lie in that page */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	if (mprotect((void *)start, len, PROT_READ | PROT_WRITE) != 0)
		rc = err_os(err, errno, "could not change program text");
	else {
		memcpy(at, bytes, TEXTPATCH_LEN);
		if (mprotect((void *)start, len, PROT_READ | PROT_EXEC) != 0) {
			/* without its text the process cannot go on */
			err_os(err, errno, "could not make program text executable again");
			process_die(err);
		}
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	return rc;
}

int
textpatch_set(struct textpatch *p, const char *name, void (*replacement)(void), struct err *err)
{
#if defined(__x86_64__)
	uint8_t jump[TEXTPATCH_LEN] = {0x48, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xE0};
	const ElfW(Sym) *symbol = NULL;
	uint8_t *at = process_symbol(name);
	Dl_info info;

	if (p->at != NULL)
		return 0;
	if (at == NULL || dladdr1(at, &info, (void **)&symbol, RTLD_DL_SYMENT) == 0 || symbol == NULL ||
	    info.dli_saddr != at || symbol->st_size < TEXTPATCH_LEN)
		return err_set(err, ERR_REFUSED, "this build of the server has no function %s that could be replaced", name);
	memcpy(jump + 2, &replacement, sizeof(replacement));
	memcpy(p->saved, at, TEXTPATCH_LEN);
	if (write_text(at, jump, err) != 0)
		return err_context(err, "%s", name);
	p->at = at;
	return 0;
#else
	(void)p;
	(void)replacement;
	return err_set(err, ERR_REFUSED, "function %s cannot be replaced on this processor", name);
#endif
}

int
textpatch_restore(struct textpatch *p, struct err *err)
{
	if (p->at == NULL)
		return 0;
	if (write_text(p->at, p->saved, err) != 0)
		return -1;
	p->at = NULL;
	return 0;
}
