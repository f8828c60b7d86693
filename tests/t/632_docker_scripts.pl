# Goal: what surrounds the compose topology: a machine without a Docker engine is told so, by the demo and by the topology's test, which skips; without a registry the base image is made; the
# demo takes Compose v2 where there is one, and docker-compose otherwise; what is missing of Docker and Compose is installed from Debian's packages. Stand-ins write down what is asked
# of them: docker, docker-compose, mmdebstrap, sudo, apt-get.
use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($out, $err);
sub run_it { my (@command) = @_; IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err); return $? >> 8; }

# no engine
{
	local $ENV{DOCKER_HOST} = "unix://$tmp/nowhere";
	is(run_it('docker/demo'), 1, 'the demo without an engine');
	like($err, qr/^docker\/demo: no Docker engine answers: \S.*\nStart one/, '... says so');
	is(run_it($^X, 'tests/t/630_docker.pl'), 0, 'the test of the topology without one');
	like($out, qr/^1\.\.0 # SKIP (?:no Docker engine answers: \S|there is no Docker)/m, '... is skipped, with the reason');
}

# from here on, played: in a folder that has nothing else but what the scripts need
mkdir "$tmp/bin";
for my $name (qw(bash cat chmod dirname env head id mktemp rm sed sh tail timeout tr)) {
	my ($path) = grep { -x } map { "$_/$name" } qw(/bin /usr/bin);
	symlink($path, "$tmp/bin/$name") or die "$name: $!";
}
sub play
{
	my ($name, $does) = @_;
	unlink "$tmp/bin/$name";
	append_to_file("$tmp/bin/$name", "#!/bin/sh\necho \"$name \$*\" >>$tmp/asked\n$does\n");
	chmod 0755, "$tmp/bin/$name";
	return;
}
sub asked { my $text = -e "$tmp/asked" ? slurp_file("$tmp/asked") : ''; unlink "$tmp/asked"; return $text; }
$ENV{PATH} = "$tmp/bin";

# the base image
play('mmdebstrap', "echo a tar of it");
play('sudo', 'exec "$@"');
play('docker', "case \$1 in image | pull) exit 1 ;; import) cat >$tmp/imported ;; esac");
is(run_it('docker/base-image'), 0, 'no registry answers') or diag($err);
my $text = asked();
like($text, qr/^docker pull -q debian:bookworm-slim\n.*^mmdebstrap .*--variant=minbase .* bookworm -\n.*^docker tag debian:bookworm-slim-new debian:bookworm-slim\n/ms, 'the base image is made') or diag($text);
like($text, qr/^docker import -c CMD \["bash"\] - debian:bookworm-slim-new$/m, '... and imported');
is(slurp_file("$tmp/imported"), "a tar of it\n", '... as it was made');
play('mmdebstrap', "echo half of it; echo no room >&2; exit 1");
is(run_it('docker/base-image'), 1, 'one that cannot be made');
like($err, qr/no room\ndocker\/base-image: could not be made/, '... is said');
unlike(asked(), qr/docker tag/, '... and half of it is not taken');
play('docker', '[ "$1" != image ]');
is(run_it('docker/base-image'), 0, 'a registry that answers');
unlike(asked(), qr/mmdebstrap/, '... is enough');

# Compose: the demo gets no further than to its images
my $begins = 'case "$1 $2" in "build "*) exit 1 ;; "compose version") ';
play('docker-compose', '');
for (['docker compose', 'exit 0'], ['docker-compose', 'exit 1']) {
	my ($compose, $version) = @$_;
	play('docker', "$begins$version ;; esac");
	isnt(run_it('docker/demo'), 0, "$compose: images that cannot be built");
	$text = asked();
	is(join(' ', $text =~ /^(docker[ -]compose) -f docker\/compose\.yaml down /mg), $compose, "... it is $compose that is used") or diag($text);
}

# packages
unlink map { "$tmp/bin/$_" } qw(docker docker-compose);
play('sudo', 'cat >/dev/null');
play('apt-get', '');
play('dpkg-query', 'exit 1');
is(run_it('scripts/packages', 'docker'), 0, 'a machine without Docker') or diag($err);
like(asked(), qr/^sudo .*apt-get install .* docker\.io docker-compose$/m, '... gets Debian\'s engine and Compose');
play('docker', '[ "$1" = compose ]');
is(run_it('scripts/packages', 'docker'), 0, 'one with Docker and Compose v2') or diag($err);
unlike(asked(), qr/apt-get install .*(?:docker|compose)/, '... keeps them');
done_testing();
