#include "common/err.h"

#include <stdio.h>
#include <string.h>

int
err_set(struct err *e, enum err_class class, const char *fmt, ...)
{
	struct err new = {.class = class};
	va_list ap;

	/* the arguments may point into *e itself */
	va_start(ap, fmt);
	vsnprintf(new.text, sizeof(new.text), fmt, ap);
	va_end(ap);
	*e = new;
	return -1;
}

int
err_os(struct err *e, int os_errno, const char *fmt, ...)
{
	struct err new = {.class = ERR_FAILED, .os_errno = os_errno};
	va_list ap;
	size_t len;

	va_start(ap, fmt);
	vsnprintf(new.text, sizeof(new.text), fmt, ap);
	va_end(ap);
	len = strlen(new.text);
	snprintf(new.text + len, sizeof(new.text) - len, ": %s", strerror(os_errno));
	*e = new;
	return -1;
}

int
err_detail(struct err *e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->detail, sizeof(e->detail), fmt, ap);
	va_end(ap);
	return -1;
}

int
err_hint(struct err *e, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->hint, sizeof(e->hint), fmt, ap);
	va_end(ap);
	return -1;
}

int
err_later(struct err *e, long long format, int known, const char *fmt, ...)
{
	char what[sizeof(e->text) - 76]; /* a long name is cut, what is said of it must fit */
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	err_set(e, ERR_REFUSED, "%s has format %lld; this version of walcrypt knows formats up to %d", what, format, known);
	return err_hint(e, "A later version of walcrypt wrote it: use that one, or one after it.");
}

int
err_sqlstate(struct err *e, const char sqlstate[static 5])
{
	memcpy(e->sqlstate, sqlstate, 5);
	e->sqlstate[5] = '\0';
	return -1;
}

int
err_context(struct err *e, const char *fmt, ...)
{
	char text[sizeof(e->text)];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* cut by hand: snprintf would do the same, but the compiler warns of it */
	for (const char *s = ": "; len >= 0 && *s != '\0' && (size_t)len < sizeof(text) - 1; s++)
		text[len++] = *s;
	for (const char *s = e->text; len >= 0 && *s != '\0' && (size_t)len < sizeof(text) - 1; s++)
		text[len++] = *s;
	text[len < 0 ? 0 : (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1] = '\0';
	memcpy(e->text, text, sizeof(text));
	return -1;
}

int
err_nomem(struct err *e)
{
	memset(e, 0, sizeof(*e));
	e->class = ERR_FAILED;
	memcpy(e->text, "out of memory", sizeof("out of memory"));
	memcpy(e->sqlstate, "53200", 6);
	return -1;
}
