#include "common/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static atomic_int least_level = LOG_INFO;
static const char *const level_names[] = {"DEBUG", "LOG", "NOTICE", "WARNING", "ERROR", "FATAL"};
static const char *const level_options[] = {"debug", "info", "notice", "warning", "error", "fatal"};

void
log_set_level(enum log_level least)
{
	least_level = (int)least;
}

int
log_level_parse(const char *name, enum log_level *level)
{
	for (size_t i = 0; i < sizeof(level_options) / sizeof(level_options[0]); i++)
		if (strcasecmp(name, level_options[i]) == 0) {
			*level = (enum log_level)i;
			return 0;
		}
	return -1;
}

static size_t
line_prefix(char *buf, size_t len, const char *word)
{
	struct timespec now;
	struct tm tm;
	char stamp[32];
	int n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &tm);
	n = snprintf(buf, len, "%s.%03ld UTC [%d] %s:  ", stamp, now.tv_nsec / 1000000, (int)getpid(), word);
	return n < 0 ? 0 : (size_t)n < len ? (size_t)n : len - 1;
}

/* One write per line, so that lines of several threads do not mix; a log that cannot be written has nowhere to be
 * reported. */
static void
line_write(char *buf, size_t used)
{
	buf[used] = '\n';
	if (write(STDERR_FILENO, buf, used + 1) < 0)
		return;
}

void
log_line(enum log_level level, const char *fmt, ...)
{
	char buf[2048];
	size_t used;
	va_list ap;
	int n;

	if ((int)level < least_level)
		return;
	used = line_prefix(buf, sizeof(buf) - 1, level_names[level]);
	va_start(ap, fmt);
	n = vsnprintf(buf + used, sizeof(buf) - 1 - used, fmt, ap);
	va_end(ap);
	if (n > 0)
		used += (size_t)n < sizeof(buf) - 1 - used ? (size_t)n : sizeof(buf) - 2 - used;
	line_write(buf, used);
}

void
log_err(enum log_level level, const struct err *err, const char *context)
{
	char buf[1024];
	size_t used;

	if (context != NULL && *context != '\0')
		log_line(level, "%s: %s", context, err->text);
	else
		log_line(level, "%s", err->text);
	if ((int)level < least_level)
		return;
	if (err->detail[0] != '\0') {
		used = line_prefix(buf, sizeof(buf) - 1, "DETAIL");
		used += (size_t)snprintf(buf + used, sizeof(buf) - 1 - used, "%s", err->detail);
		line_write(buf, used);
	}
	if (err->hint[0] != '\0') {
		used = line_prefix(buf, sizeof(buf) - 1, "HINT");
		used += (size_t)snprintf(buf + used, sizeof(buf) - 1 - used, "%s", err->hint);
		line_write(buf, used);
	}
}
