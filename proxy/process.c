#include "proxy/process.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "common/log.h"
#include "walcrypt/secmem.h"

/* Keys and key schedules: one session's ciphers need a few KiB. */
#define SECMEM_LEN (4u << 20)

int
process_seal(struct err *err)
{
	/* 0 says nothing to a program that cores are piped to (core(5)); 1 is what Linux takes for none there, too. Where
	 * none is the most that is allowed, it stays so. */
	const struct rlimit none = {1, 1}, zero = {0, 0};

	if (setrlimit(RLIMIT_CORE, &none) != 0 && setrlimit(RLIMIT_CORE, &zero) != 0)
		return err_os(err, errno, "could not turn core dumps off");
	return secmem_init(SECMEM_LEN, err) != 0 || secmem_hook_openssl(err) != 0 ? -1 : 0;
}

/* A session has its client's descriptor and its upstream's, a login its own. */
void
process_raise_descriptors(const struct settings *settings)
{
	struct rlimit limit;
	rlim_t want = (rlim_t)settings->max_sessions * 2 + (rlim_t)settings->max_logins + 64;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		log_debug("setrlimit: %s", strerror(errno));
	if (settings->max_sessions > 0 && limit.rlim_max < want)
		log_warning("max_sessions and max_logins may need %llu descriptors, but ulimit -Hn is %llu",
		            (unsigned long long)want, (unsigned long long)limit.rlim_max);
}
