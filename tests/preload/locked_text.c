/* A security policy that forbids to change program text (SELinux's execmod), played by a library preloaded beside the
 * storage layer: the program's own text cannot be made writable. */
#include <errno.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int
is_text(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t at = *(uintptr_t *)arg;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type == PT_LOAD && (p->p_flags & PF_X) != 0 && at >= info->dlpi_addr + p->p_vaddr &&
		    at < info->dlpi_addr + p->p_vaddr + p->p_memsz)
			return 1;
	}
	return -1; /* the program comes first: its libraries are not looked at */
}

int
mprotect(void *addr, size_t len, int prot)
{
	uintptr_t at = (uintptr_t)addr;

	if ((prot & PROT_WRITE) != 0 && dl_iterate_phdr(is_text, &at) > 0) {
		errno = EACCES;
		return -1;
	}
	return (int)syscall(SYS_mprotect, addr, len, prot);
}
