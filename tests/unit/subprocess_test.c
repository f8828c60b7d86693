/* Programs run to their end: status, output, deadline, nothing left behind. */
#include "common/subprocess.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/tap.h"

static int
run(struct subprocess *p, const char *script, struct err *err)
{
	static const char *argv[4];

	argv[0] = "/bin/sh";
	argv[1] = "-c";
	argv[2] = script;
	p->argv = argv;
	memset(err, 0, sizeof(*err));
	return subprocess_run(p, err);
}

int
main(void)
{
	char out[64], big[100000];
	struct subprocess p = {.own_group = true, .timeout_ms = 20000, .out = out, .out_size = sizeof(out)};
	static const char *const without[] = {"SECRET", NULL};
	const char *const missing[] = {"/nonexistent/program", NULL};
	struct timespec begin, end;
	char **environment;
	struct err err;

	is_int(run(&p, "echo hello; echo trouble >&2; exit 3", &err), 0, "a program comes to its end");
	is_int(p.status, 3, "... with its status");
	is_str(p.out, "hello\n", "... its output");
	is_int(p.out_len, 6, "... the length of it");
	is_str(p.err_text, "trouble\n", "... and what it said on stderr");
	is_int(run(&p, "cat; readlink /proc/self/fd/0", &err), 0, "its input is empty");
	is_str(p.out, "/dev/null\n", "... /dev/null");
	is_int(run(&p, "kill -9 $$", &err), 0, "killed by a signal");
	is_int(p.status, 137, "... shows in the status");
	is_int(run(&p, "trap '' PIPE; kill -PIPE $$; echo alive", &err), 0, "a program may ignore SIGPIPE");
	is_int(run(&p, "seq 1 10000", &err), -1, "too much output");
	is_err(&err, ERR_FAILED, "printed more than 63 bytes", "... is an error");
	ok(out[0] == '\0' && out[40] == '\0', "... and wiped");
	is_int(run(&p, "printf '%063d' 0", &err), 0, "just enough output");
	is_int(p.out_len, 63, "... is taken");
	is_int(run(&p, "seq 1 100000 >&2", &err), 0, "a flood on stderr");
	ok(strlen(p.err_text) == SUBPROCESS_STDERR_MAX - 1 && strstr(p.err_text, "99999\n100000\n") != NULL,
	   "... keeps its end");

	p.timeout_ms = 300;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	is_int(run(&p, "sleep 30 & echo $!; wait", &err), -1, "a program that does not end");
	clock_gettime(CLOCK_MONOTONIC, &end);
	is_err(&err, ERR_UNREACHABLE, "did not end within 300 ms", "... is stopped");
	is_int(err.os_errno, ETIMEDOUT, "... with ETIMEDOUT");
	ok(end.tv_sec - begin.tv_sec < 15, "... in time");
	is_int(run(&p, "exec >&- 2>&-; sleep 30", &err), -1, "closing its output does not help it");

	p.timeout_ms = 20000;
	p.argv = missing;
	is_int(subprocess_run(&p, &err), -1, "a program that is not there");
	is_err(&err, ERR_FAILED, "could not run \"/nonexistent/program\"", "... is said");
	is_int(err.os_errno, ENOENT, "... with ENOENT");
	p.folder = "/nonexistent";
	is_int(run(&p, "true", &err), -1, "a folder that is not there");
	p.folder = "/";
	is_int(run(&p, "pwd", &err), 0, "a folder");
	is_str(p.out, "/\n", "... is where it runs");

	setenv("SECRET", "x", 1);
	setenv("SECRETS", "y", 1);
	environment = subprocess_environment(without);
	p.envp = environment;
	is_int(run(&p, "echo \"$SECRET,$SECRETS\"", &err), 0, "an environment of its own");
	is_str(p.out, ",y\n", "... lacks what it must");
	free(environment);
	p.envp = NULL;
	p.out = big;
	p.out_size = sizeof(big);
	is_int(run(&p, "seq 1 15000", &err), 0, "more output than a pipe holds");
	is_int(p.out_len, 78894, "... comes whole");
	return tap_done();
}
