#include "walcrypt/base64.h"

#include <limits.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
base64_encode(const uint8_t *in, size_t len, char *out)
{
	for (; len > 0; len -= len < 3 ? len : 3, in += 3) {
		uint32_t bits = (uint32_t)in[0] << 16;

		if (len > 1)
			bits |= (uint32_t)in[1] << 8;
		if (len > 2)
			bits |= in[2];
		*out++ = alphabet[bits >> 18];
		*out++ = alphabet[bits >> 12 & 63];
		*out++ = len > 1 ? alphabet[bits >> 6 & 63] : '=';
		*out++ = len > 2 ? alphabet[bits & 63] : '=';
		if (len < 3)
			break;
	}
	*out = '\0';
}

static int
value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int
base64_decode(const char *text, size_t len, uint8_t *out, size_t max)
{
	size_t n = 0;

	if (len % 4 != 0 || len / 4 * 3 > INT_MAX)
		return -1;
	for (size_t at = 0; at < len; at += 4) {
		/* padding only at the very end: "xx==" or "xxx=" */
		int pad = at + 4 < len || text[at + 3] != '=' ? 0 : text[at + 2] == '=' ? 2 : 1;
		uint32_t bits = 0;

		for (int i = 0; i < 4; i++) {
			int v = i >= 4 - pad ? 0 : value(text[at + (size_t)i]);

			if (v < 0)
				return -1;
			bits = bits << 6 | (uint32_t)v;
		}
		if ((pad == 1 && (bits & 0xFF) != 0) || (pad == 2 && (bits & 0xFFFF) != 0))
			return -1;
		for (int i = 0; i < 3 - pad; i++) {
			if (n == max)
				return -1;
			out[n++] = (uint8_t)(bits >> (16 - 8 * i));
		}
	}
	return (int)n;
}
