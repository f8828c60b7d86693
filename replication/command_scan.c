#include "replication/command_scan.h"

#include <stdlib.h>
#include <string.h>

#include "replication/command.h"

static const char *const keywords[] = {
    "BASE_BACKUP",
    "IDENTIFY_SYSTEM",
    "READ_REPLICATION_SLOT",
    "SHOW",
    "TIMELINE",
    "START_REPLICATION",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "ALTER_REPLICATION_SLOT",
    "TIMELINE_HISTORY",
    "PHYSICAL",
    "RESERVE_WAL",
    "LOGICAL",
    "SLOT",
    "TEMPORARY",
    "TWO_PHASE",
    "EXPORT_SNAPSHOT",
    "NOEXPORT_SNAPSHOT",
    "USE_SNAPSHOT",
    "WAIT",
    "UPLOAD_MANIFEST",
};

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool
is_word_start(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || ((unsigned char)c & 0x80) != 0;
}

static bool
is_word(char c)
{
	return is_word_start(c) || is_digit(c) || c == '$';
}

static int
syntax(struct err *err)
{
	return err_sqlstate(err, "42601");
}

int
command_scan_error(const struct command_scan *s, struct err *err)
{
	if (s->token == TOKEN_END)
		err_set(err, ERR_FAILED, "syntax error at end of replication command");
	else
		err_set(err, ERR_FAILED, "syntax error in replication command at or near \"%.*s\"",
		        s->raw_len > 64 ? 64 : (int)s->raw_len, s->raw);
	return syntax(err);
}

bool
command_scan_is(const struct command_scan *s, const char *keyword)
{
	return s->token == TOKEN_KEYWORD && strcmp(s->text, keyword) == 0;
}

/* hex+/hex+, which wins over a number or an identifier made of hex digits. Returns its length, 0 when it is none. */
static size_t
match_lsn(const char *p, const char *end)
{
	const char *q = p, *low;

	while (q < end && is_hex(*q))
		q++;
	if (q == p || q == end || *q != '/')
		return 0;
	for (low = ++q; q < end && is_hex(*q);)
		q++;
	return q == low ? 0 : (size_t)(q - p);
}

static int
hex_half(const char *p, const char *end, uint32_t *value)
{
	*value = 0;
	if (end - p > 8)
		return -1;
	for (; p < end; p++)
		*value = *value << 4 | (uint32_t)(is_digit(*p) ? *p - '0' : (*p | 0x20) - 'a' + 10);
	return 0;
}

static int
scan_lsn(struct command_scan *s, size_t len, struct err *err)
{
	const char *slash = memchr(s->at, '/', len);
	uint32_t high, low;

	s->token = TOKEN_LSN;
	s->raw_len = len;
	if (hex_half(s->at, slash, &high) != 0 || hex_half(slash + 1, s->at + len, &low) != 0) {
		err_set(err, ERR_FAILED, "invalid streaming start location");
		return syntax(err);
	}
	s->lsn = (uint64_t)high << 32 | low;
	s->at += len;
	return 0;
}

static int
scan_number(struct command_scan *s, struct err *err)
{
	uint64_t value = 0;
	const char *p = s->at;

	for (; p < s->end && is_digit(*p); p++)
		if ((value = value * 10 + (uint64_t)(*p - '0')) > UINT32_MAX)
			value = (uint64_t)UINT32_MAX + 1;
	s->token = TOKEN_NUMBER;
	s->raw_len = (size_t)(p - s->at);
	s->at = p;
	if (value > UINT32_MAX)
		return command_scan_error(s, err);
	s->number = (uint32_t)value;
	return 0;
}

static int
too_long(struct err *err, const char *name)
{
	err_set(err, ERR_FAILED, "identifier is longer than %d bytes: \"%.80s\"", COMMAND_NAME_MAX, name);
	return err_sqlstate(err, "42622");
}

static int
scan_word(struct command_scan *s, struct err *err)
{
	size_t len = 0;

	while (s->at < s->end && is_word(*s->at))
		s->text[len++] = *s->at++;
	s->text[len] = '\0';
	s->raw_len = len;
	s->token = TOKEN_KEYWORD;
	for (size_t i = 0; i < sizeof(keywords) / sizeof(keywords[0]); i++)
		if (strcmp(s->text, keywords[i]) == 0)
			return 0;
	s->token = TOKEN_NAME;
	for (size_t i = 0; i < len; i++)
		if (s->text[i] >= 'A' && s->text[i] <= 'Z')
			s->text[i] |= 0x20;
	return len > COMMAND_NAME_MAX ? too_long(err, s->text) : 0;
}

static int
scan_quoted(struct command_scan *s, char quote, struct err *err)
{
	size_t len = 0;

	for (s->at++;; s->at++) {
		if (s->at == s->end) {
			err_set(err, ERR_FAILED, "unterminated quoted string in replication command");
			return syntax(err);
		}
		if (*s->at == quote) {
			if (quote != '\'' || s->at + 1 == s->end || s->at[1] != quote)
				break;
			s->at++;
		}
		s->text[len++] = *s->at;
	}
	s->at++;
	s->text[len] = '\0';
	s->raw_len = (size_t)(s->at - s->raw);
	s->token = quote == '\'' ? TOKEN_STRING : TOKEN_NAME;
	if (s->token == TOKEN_NAME && len == 0) {
		err_set(err, ERR_FAILED, "zero-length identifier in replication command");
		return syntax(err);
	}
	return s->token == TOKEN_NAME && len > COMMAND_NAME_MAX ? too_long(err, s->text) : 0;
}

int
command_scan_next(struct command_scan *s, struct err *err)
{
	size_t len;

	while (s->at < s->end && is_space(*s->at))
		s->at++;
	s->raw = s->at;
	s->raw_len = 0;
	s->token = TOKEN_END;
	if (s->at == s->end)
		return 0;
	if (is_hex(*s->at) && (len = match_lsn(s->at, s->end)) > 0)
		return scan_lsn(s, len, err);
	if (is_digit(*s->at))
		return scan_number(s, err);
	if (is_word_start(*s->at))
		return scan_word(s, err);
	if (*s->at == '\'' || *s->at == '"')
		return scan_quoted(s, *s->at, err);
	s->token = TOKEN_SIGN;
	s->raw_len = 1;
	s->sign = *s->at++;
	return 0;
}

int
command_scan_init(struct command_scan *s, const char *text, size_t len, struct err *err)
{
	memset(s, 0, sizeof(*s));
	s->at = text;
	s->end = text + len;
	if (memchr(text, '\0', len) != NULL) {
		err_set(err, ERR_FAILED, "replication command contains a zero byte");
		return err_sqlstate(err, "08P01");
	}
	if ((s->text = malloc(len + 1)) == NULL)
		return err_nomem(err);
	s->text[0] = '\0';
	if (command_scan_next(s, err) == 0)
		return 0;
	command_scan_free(s);
	return -1;
}

void
command_scan_free(struct command_scan *s)
{
	free(s->text);
	memset(s, 0, sizeof(*s));
}
