#include "ctl/json_out.h"

#include <stdio.h>
#include <stdlib.h>

int
json_out(const json_t *root, struct err *err)
{
	char *text = root != NULL ? json_dumps(root, JSON_INDENT(2)) : NULL;

	if (text == NULL)
		return err_nomem(err);
	printf("%s\n", text);
	free(text);
	return 0;
}
