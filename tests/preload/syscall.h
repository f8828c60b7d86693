/*
 * syscall(), by which the storage layer and walcrypt-ctl touch files, in the place of the C library's: a library to be
 * preloaded includes this and defines on_syscall, which sees each call and lets it pass, or not.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

static long (*real)(long, ...);

static long on_syscall(long call, const long a[static 6]);

static long
pass(long call, const long a[static 6])
{
	return real(call, a[0], a[1], a[2], a[3], a[4], a[5]);
}

long
syscall(long call, ...)
{
	va_list ap;
	long a[6];

	va_start(ap, call);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (real == NULL)
		real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	return on_syscall(call, a);
}
