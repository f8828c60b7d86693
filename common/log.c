#include "common/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "common/log_json.h"

static atomic_int least_level = LOG_INFO;
static atomic_bool as_json;
static const char *const level_names[] = {"DEBUG", "LOG", "NOTICE", "WARNING", "ERROR", "FATAL"};
static const char *const level_options[] = {"debug", "info", "notice", "warning", "error", "fatal"};

void
log_set_level(enum log_level least)
{
	least_level = (int)least;
}

void
log_set_json(bool json)
{
	as_json = json;
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

bool
log_wants(enum log_level level)
{
	return (int)level >= least_level;
}

static void
stamp(char *buf, size_t len)
{
	struct timespec now;
	struct tm tm;
	char second[32];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(second, sizeof(second), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(buf, len, "%s.%03ld UTC", second, now.tv_nsec / 1000000);
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

static void
line_text(const char *word, const char *prefix, const char *text)
{
	char buf[2048], when[64];
	int n;

	stamp(when, sizeof(when));
	n = snprintf(buf, sizeof(buf) - 1, "%s [%d] %s:  %s%s%s", when, (int)getpid(), word, prefix,
	             *prefix != '\0' ? ": " : "", text);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(buf) - 1)
		n = (int)sizeof(buf) - 2;
	/* what others have a say in, as an application's name, must not make lines of its own */
	for (int i = 0; i < n; i++)
		if ((unsigned char)buf[i] < 0x20 || buf[i] == 0x7F)
			buf[i] = buf[i] == '\n' || buf[i] == '\t' ? ' ' : '?';
	line_write(buf, (size_t)n);
}

static void
emit(enum log_level level, const struct log_about *about, const char *text, const struct err *err)
{
	const char *prefix = about != NULL && about->prefix != NULL ? about->prefix : "";
	char buf[8192], when[64];
	struct log_record r = {.severity = level_names[level], .text = text, .pid = (int)getpid(), .about = about};

	if (!as_json) {
		line_text(level_names[level], prefix, text);
		if (err != NULL && err->detail[0] != '\0')
			line_text("DETAIL", "", err->detail);
		if (err != NULL && err->hint[0] != '\0')
			line_text("HINT", "", err->hint);
		return;
	}
	stamp(when, sizeof(when));
	r.stamp = when;
	if (err != NULL) {
		r.sqlstate = err->sqlstate;
		r.detail = err->detail;
		r.hint = err->hint;
	}
	line_write(buf, log_json(buf, sizeof(buf) - 1, &r));
}

void
log_line(enum log_level level, const char *fmt, ...)
{
	char text[1536];
	va_list ap;

	if (!log_wants(level))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	emit(level, NULL, text, NULL);
}

void
log_err(enum log_level level, const struct err *err, const char *context)
{
	char text[1536];

	if (!log_wants(level))
		return;
	snprintf(text, sizeof(text), "%s%s%s", context != NULL ? context : "",
	         context != NULL && *context != '\0' ? ": " : "", err->text);
	emit(level, NULL, text, err);
}

void
log_about_text(enum log_level level, const struct log_about *about, const char *text)
{
	if (log_wants(level))
		emit(level, about, text, NULL);
}

void
log_about_err(enum log_level level, const struct log_about *about, const struct err *err)
{
	if (log_wants(level))
		emit(level, about, err->text, err);
}
