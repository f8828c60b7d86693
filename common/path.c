#include "common/path.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
path_format(char out[static PATH_MAX], struct err *err, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(out, PATH_MAX, fmt, ap);
	va_end(ap);
	return n >= 0 && n < PATH_MAX ? 0 : err_os(err, ENAMETOOLONG, "could not use path \"%.100s...\"", out);
}

int
path_absolute(char out[static PATH_MAX], const char *path, struct err *err)
{
	char here[PATH_MAX], *real = realpath(path, NULL);
	int result;

	if (real != NULL) {
		result = path_format(out, err, "%s", real);
		free(real);
		return result;
	}
	if (*path == '/')
		result = path_format(out, err, "%s", path);
	else if (getcwd(here, sizeof(here)) == NULL)
		result = err_os(err, errno, "could not find out the present directory");
	else
		result = path_format(out, err, "%s/%s", here, path);
	for (size_t n = result == 0 ? strlen(out) : 0; n > 1 && out[n - 1] == '/';)
		out[--n] = '\0';
	return result;
}

int
path_by_folder(const char *a, const char *b)
{
	size_t n = (size_t)(strrchr(a, '/') - a), m = (size_t)(strrchr(b, '/') - b);
	int order = memcmp(a, b, n < m ? n : m);

	return order != 0 ? order : n < m ? -1 : n > m;
}
