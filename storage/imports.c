#include "storage/imports.h"

#include <elf.h>
#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * Every call of libc (and of what may come beside it) that moves a file's bytes or opens a file, and is not interposed.
 * docs/storage.md says of each interposed or passed call why. One of these in the server's imports means that a release
 * has found a new road to its files.
 */
static const char *const unknown[] = {
    "openat2",
    "open_by_handle_at",
    "freopen64",
    "tmpfile",
    "tmpfile64",
    "mkstemp",
    "mkstemp64",
    "mkostemp",
    "mkstemps",
    "fdopen",
    "__fdopen",
    "renameat",
    "renameat2",
    "linkat",
    "aio_read",
    "aio_read64",
    "aio_write",
    "aio_write64",
    "lio_listio",
    "lio_listio64",
    "io_submit",
    "io_setup",
    "tee",
    "vmsplice",
    "process_vm_readv",
    "process_vm_writev",
    "syscall",
    "__pwrite_chk",
    "__readv_chk",
    "clone",
    "remap_file_pages",
    "mremap",
};
#define IO_URING_PREFIX "io_uring_" /* io_uring_queue_init, io_uring_submit ... */

bool
imports_unknown(const char *name)
{
	if (strncmp(name, IO_URING_PREFIX, strlen(IO_URING_PREFIX)) == 0)
		return true;
	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
		if (strcmp(name, unknown[i]) == 0)
			return true;
	return false;
}

struct check {
	bool io_uring; /* its calls are known */
	struct err *err;
};

struct table {
	const ElfW(Sym) * symbols;
	const char *strings;
	const uint32_t *gnu_hash, *sysv_hash;
};

/* Imports come first in the symbol table: the GNU hash covers the rest only. */
static uint32_t
import_count(const struct table *t)
{
	if (t->gnu_hash != NULL)
		return t->gnu_hash[1];
	return t->sysv_hash != NULL ? t->sysv_hash[1] : 0;
}

static int
check_program(struct dl_phdr_info *info, size_t size, void *arg)
{
	const struct check *check = arg;
	struct err *err = check->err;
	struct table t = {0};

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Dyn) *d = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);

		if (info->dlpi_phdr[i].p_type != PT_DYNAMIC)
			continue;
		for (; d->d_tag != DT_NULL; d++) {
			if (d->d_tag == DT_SYMTAB)
				t.symbols = (const ElfW(Sym) *)d->d_un.d_ptr;
			else if (d->d_tag == DT_STRTAB)
				t.strings = (const char *)d->d_un.d_ptr;
			else if (d->d_tag == DT_GNU_HASH)
				t.gnu_hash = (const uint32_t *)d->d_un.d_ptr;
			else if (d->d_tag == DT_HASH)
				t.sysv_hash = (const uint32_t *)d->d_un.d_ptr;
		}
	}
	if (t.symbols == NULL || t.strings == NULL || import_count(&t) == 0) {
		err_set(err, ERR_REFUSED, "could not read the server program's import table");
		return -1;
	}
	for (uint32_t i = 0; i < import_count(&t); i++) {
		const char *name = t.strings + t.symbols[i].st_name;

		if (t.symbols[i].st_shndx != SHN_UNDEF || !imports_unknown(name))
			continue;
		if (check->io_uring && strncmp(name, IO_URING_PREFIX, strlen(IO_URING_PREFIX)) == 0)
			continue;
		err_set(err, ERR_REFUSED, "this server uses the call %s, which the storage layer does not know", name);
		err_hint(err, "Use a release of PostgreSQL that this version of walcrypt was tested with.");
		return -1;
	}
	return 1; /* the program comes first: its libraries are not looked at */
}

int
imports_check(bool io_uring, struct err *err)
{
	struct check check = {.io_uring = io_uring, .err = err};

	return dl_iterate_phdr(check_program, &check) < 0 ? -1 : 0;
}
