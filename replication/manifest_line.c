#include "replication/manifest_line.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

struct cursor {
	const char *at, *end;
};

static bool
take(struct cursor *c, const char *text)
{
	size_t len = strlen(text);

	if ((size_t)(c->end - c->at) < len || memcmp(c->at, text, len) != 0)
		return false;
	c->at += len;
	return true;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool
take_hex(struct cursor *c, unsigned ndigits, unsigned *value)
{
	*value = 0;
	if ((size_t)(c->end - c->at) < ndigits)
		return false;
	for (; ndigits > 0; ndigits--, c->at++) {
		int digit = hex_digit(*c->at);

		if (digit < 0)
			return false;
		*value = *value << 4 | (unsigned)digit;
	}
	return true;
}

/* The value of a \uXXXX escape as UTF-8. The server escapes control characters only; surrogates never occur. */
static bool
put_code(char *out, size_t *len, unsigned code)
{
	if (code == 0 || (code >= 0xD800 && code < 0xE000))
		return false;
	if (code >= 0x800)
		out[(*len)++] = (char)(0xE0 | code >> 12);
	if (code >= 0x80)
		out[(*len)++] = code >= 0x800 ? (char)(0x80 | (code >> 6 & 0x3F)) : (char)(0xC0 | code >> 6);
	out[(*len)++] = code >= 0x80 ? (char)(0x80 | (code & 0x3F)) : (char)code;
	return true;
}

/* What follows a backslash. source: utils/adt/json.c, escape_json */
static bool
take_escape(struct cursor *c, char *out, size_t *len)
{
	static const char names[] = "bfnrt\"\\/", values[] = "\b\f\n\r\t\"\\/";
	const char *name;
	unsigned code;

	if (c->at == c->end)
		return false;
	if (*c->at == 'u') {
		c->at++;
		return take_hex(c, 4, &code) && put_code(out, len, code);
	}
	if ((name = strchr(names, *c->at)) == NULL || *name == '\0')
		return false;
	out[(*len)++] = values[name - names];
	c->at++;
	return true;
}

static bool
take_path(struct cursor *c, char *out, size_t size)
{
	size_t len = 0;

	while (c->at < c->end && *c->at != '"') {
		if (len + 4 > size || (unsigned char)*c->at < ' ')
			return false;
		if (*c->at == '\\') {
			c->at++;
			if (!take_escape(c, out, &len))
				return false;
		} else
			out[len++] = *c->at++;
	}
	out[len] = '\0';
	return len > 0;
}

static bool
take_encoded_path(struct cursor *c, char *out, size_t size)
{
	size_t len = 0;
	unsigned byte;

	while (c->at < c->end && *c->at != '"') {
		if (len + 1 >= size || !take_hex(c, 2, &byte) || byte == 0)
			return false;
		out[len++] = (char)byte;
	}
	out[len] = '\0';
	return len > 0;
}

static size_t
take_run(struct cursor *c, const char *set)
{
	size_t n = 0;

	while (c->at < c->end && *c->at != '\0' && strchr(set, *c->at) != NULL) {
		c->at++;
		n++;
	}
	return n;
}

static bool
parse(struct cursor *c, enum digest_kind checksums, struct manifest_line *m)
{
	size_t digits;

	if (take(c, "{ \"Path\": \"")) {
		if (!take_path(c, m->path, sizeof(m->path)))
			return false;
	} else if (!take(c, "{ \"Encoded-Path\": \"") || !take_encoded_path(c, m->path, sizeof(m->path)))
		return false;
	if (!take(c, "\", \"Size\": "))
		return false;
	m->head_len = (size_t)(c->at - m->head);
	if ((digits = take_run(c, "0123456789")) == 0 || digits > 20 || !take(c, ", "))
		return false;
	m->time = c->at;
	if (!take(c, "\"Last-Modified\": \"") || take_run(c, "0123456789-: GMTUC") == 0 || !take(c, "\""))
		return false;
	m->time_len = (size_t)(c->at - m->time);
	if (checksums != DIGEST_NONE) {
		if (!take(c, ", \"Checksum-Algorithm\": \"") || !take(c, digest_name(checksums)) ||
		    !take(c, "\", \"Checksum\": \"") || take_run(c, "0123456789abcdefABCDEF") == 0 || !take(c, "\""))
			return false;
	}
	if (!take(c, " }"))
		return false;
	m->comma = take(c, ",");
	return c->at == c->end;
}

int
manifest_line_parse(const char *line, size_t len, enum digest_kind checksums, struct manifest_line *m, struct err *err)
{
	struct cursor c = {line, line + len};

	memset(m, 0, sizeof(*m));
	m->head = line;
	if (parse(&c, checksums, m))
		return 0;
	err_set(err, ERR_DAMAGED, "backup manifest of the upstream has a line of unknown shape");
	err_detail(err, "The line is: %.*s", len > 200 ? 200 : (int)len, line);
	return err_sqlstate(err, "08P01");
}

void
manifest_line_put_hex(struct buffer *out, const uint8_t *data, size_t len)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++) {
		buffer_put_u8(out, (uint8_t)digits[data[i] >> 4]);
		buffer_put_u8(out, (uint8_t)digits[data[i] & 15]);
	}
}

static void
put_tail(struct buffer *out, enum digest_kind checksums, const struct spool_entry *e)
{
	if (checksums != DIGEST_NONE) {
		buffer_put_text(out, ", \"Checksum-Algorithm\": \"");
		buffer_put_text(out, digest_name(checksums));
		buffer_put_text(out, "\", \"Checksum\": \"");
		manifest_line_put_hex(out, e->checksum, e->checksum_len);
		buffer_put_text(out, "\"");
	}
	buffer_put_text(out, " }");
}

void
manifest_line_put(struct buffer *out, const struct manifest_line *m, enum digest_kind checksums,
                  const struct spool_entry *e)
{
	char size[32];

	snprintf(size, sizeof(size), "%llu, ", (unsigned long long)e->size);
	buffer_put(out, m->head, m->head_len);
	buffer_put_text(out, size);
	buffer_put(out, m->time, m->time_len);
	put_tail(out, checksums, e);
}

void
manifest_line_put_new(struct buffer *out, enum digest_kind checksums, const struct spool_entry *e)
{
	bool plain =
	    strspn(e->path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == strlen(e->path);
	time_t mtime = (time_t)e->mtime;
	char text[96];
	struct tm tm;

	/* hex needs no escapes, whatever the name is */
	buffer_put_text(out, plain ? "{ \"Path\": \"" : "{ \"Encoded-Path\": \"");
	if (plain)
		buffer_put_text(out, e->path);
	else
		manifest_line_put_hex(out, (const uint8_t *)e->path, strlen(e->path));
	snprintf(text, sizeof(text), "\", \"Size\": %llu, ", (unsigned long long)e->size);
	buffer_put_text(out, text);
	if (gmtime_r(&mtime, &tm) == NULL)
		memset(&tm, 0, sizeof(tm));
	strftime(text, sizeof(text), "\"Last-Modified\": \"%Y-%m-%d %H:%M:%S GMT\"", &tm);
	buffer_put_text(out, text);
	put_tail(out, checksums, e);
}
