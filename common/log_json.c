#include "common/log_json.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct writer {
	char *out;
	size_t used, len;
};

/* Kept for what closes a value and the object. */
#define TAIL 4

/* How many bytes of UTF-8 stand there for one character; 0: it is none. Overlong forms and surrogates are none. */
static size_t
utf8(const char *text)
{
	const uint8_t *s = (const uint8_t *)text;
	size_t n = s[0] < 0x80                   ? 1
	           : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
	           : s[0] >= 0xE0 && s[0] < 0xF0 ? 3
	           : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
	                                         : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xC0) != 0x80)
			return 0;
	if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
	    (s[0] == 0xF4 && s[1] > 0x8F))
		return 0;
	return n;
}

/* All of it or nothing. */
static bool
put(struct writer *w, const char *text, size_t n)
{
	if (w->used + n + TAIL > w->len)
		return false;
	memcpy(w->out + w->used, text, n);
	w->used += n;
	return true;
}

static void
put_escaped(struct writer *w, const char *text)
{
	char code[8];
	size_t n;

	for (; *text != '\0'; text += n) {
		bool room;

		n = utf8(text);
		if (*text == '"' || *text == '\\') {
			snprintf(code, sizeof(code), "\\%c", *text);
			room = put(w, code, 2);
		} else if (n == 1 && (unsigned char)*text < 0x20) {
			snprintf(code, sizeof(code), "\\u%04x", (unsigned)*text);
			room = put(w, code, 6);
		} else if (n == 0) {
			n = 1;
			room = put(w, "\\ufffd", 6);
		} else
			room = put(w, text, n);
		if (!room)
			return;
	}
}

static void
member(struct writer *w, const char *name, const char *value, bool number)
{
	size_t begin = w->used;
	bool room = put(w, w->used > 1 ? ",\"" : "\"", w->used > 1 ? 2 : 1) && put(w, name, strlen(name)) &&
	            put(w, number ? "\":" : "\":\"", number ? 2 : 3);

	if (room && number)
		room = put(w, value, strlen(value));
	else if (room) {
		put_escaped(w, value);
		w->out[w->used++] = '"'; /* TAIL has room for it */
	}
	if (!room)
		w->used = begin;
}

static void
optional(struct writer *w, const char *name, const char *value, bool number)
{
	if (value != NULL && *value != '\0')
		member(w, name, value, number);
}

size_t
log_json(char *out, size_t len, const struct log_record *r)
{
	struct writer w = {out, 0, len};
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", r->pid);
	w.out[w.used++] = '{';
	optional(&w, "timestamp", r->stamp, false);
	member(&w, "pid", pid, true);
	for (size_t i = 0; r->about != NULL && i < r->about->n; i++)
		optional(&w, r->about->fields[i].name, r->about->fields[i].value, r->about->fields[i].number);
	member(&w, "error_severity", r->severity, false);
	optional(&w, "state_code", r->sqlstate, false);
	member(&w, "message", r->text, false);
	optional(&w, "detail", r->detail, false);
	optional(&w, "hint", r->hint, false);
	w.out[w.used++] = '}';
	return w.used;
}
