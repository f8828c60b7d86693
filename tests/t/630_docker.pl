# Goal: the compose topology of docker/ holds what docs/docker.md says: an unprivileged proxy, stock servers under the storage layer, an archive
# and OpenBao, on networks without a way out; a network that is cut and mended, a server, the proxy and the key server killed; a plain primary
# moved to an encrypted one and its keys rotated under load, and back to the first one's next keys, nothing acknowledged lost; the application's text in the clear primary's volume only.
# Takes the Docker engine (scripts/staged gives this test its group). Leaves the images walcrypt-*:test, and nothing else.
use strict;
use warnings;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $running;    # a command that a signal would leave behind

sub run_to_end
{
	my ($seconds, @command) = @_;
	my ($out, $err) = ('', '');
	$running = IPC::Run::start(\@command, '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout($seconds));
	my $ran = eval { $running->finish; 1; };
	my $status = $ran ? $? >> 8 : "not over after $seconds s";
	$running->kill_kill unless $ran;
	undef $running;
	note("@command: $status\n$err") if $status ne '0';
	return ($status, $out, $err);
}

my ($status, $out, $err) = eval { run_to_end(20, qw(docker info --format), '{{.ServerVersion}}') };
plan skip_all => 'there is no Docker' if !defined $status;
if ($status ne '0' || $out !~ /^\d/) {
	plan skip_all => $err =~ /permission denied/i
	  ? 'this user may not use the Docker engine; "make check" gives that right to this test alone, in a step of its own'
	  : 'no Docker engine answers: ' . ($err =~ /^(.*)/)[0];
}
my @compose = grep { (run_to_end(20, @$_, 'version'))[0] eq '0' } grep { my $c = $_; $c->[0] eq 'docker' || grep { -x "$_/$c->[0]" } split(/:/, $ENV{PATH}) } [qw(docker compose)], ['docker-compose'];
plan skip_all => 'there is no Compose; scripts/packages docker installs it' unless @compose;

$ENV{TAG} = 'test';
$ENV{COMPOSE_PROJECT_NAME} = my $project = "walcrypt-test-$$";
my $made = 0;
$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);    # cleaning up then, too

sub compose { my ($seconds, @args) = @_; return run_to_end($seconds, @{ $compose[0] }, '-f', 'docker/compose.yaml', @args); }
sub docker { my (@args) = @_; my ($s, $o, $e) = run_to_end(60, 'docker', @args); die "docker @args: $e" if $s ne '0'; chomp $o; return $o; }

END {
	my $was = $?;
	if ($made) {
		$running->kill_kill if $running;
		if (grep { !$_ } Test::More->builder->summary) { note((compose(30, 'ps'))[1]); note((compose(30, qw(logs --tail=40)))[1]); }
		compose(120, qw(down -v --remove-orphans -t 5));
	}
	$? = $was;
}

my %id;
sub id { my ($service) = @_; return $id{$service} //= do { my (undef, $o) = compose(30, 'ps', '-q', $service); ($o =~ /(\w+)/)[0]; }; }
# In a service's container: its output, or death.
sub in_container { my ($service, @command) = @_; return docker('exec', id($service), @command); }
sub sql { my ($service, $query, $db) = @_; return in_container($service, qw(psql -XAtq -h /run/postgresql -d), $db // 'app', '-c', $query); }
sub wait_for
{
	my ($what, $holds) = @_;
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	until (eval { $holds->() }) {
		if (time() > $end) { fail("waited in vain for $what"); return; }
		sleep(0.3);
	}
	pass($what);
	return;
}
sub healthy { my ($service) = @_; return docker('inspect', '-f', '{{.State.Running}} {{.State.Health.Status}}', id($service)) eq 'true healthy'; }
sub rows { my ($service) = @_; return sql($service, 'SELECT count(*) FROM pgbench_history'); }
sub follows { my ($standby, $primary) = @_; my $lsn = sql($primary, 'SELECT pg_current_wal_flush_lsn()'); return sub { sql($standby, "SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't' }; }

# up
($status, $out, $err) = run_to_end(900, 'docker/images');
is($status, '0', 'the images are built') or do { diag($err); done_testing(); exit 1; };
$made = 1;
($status, $out, $err) = compose(300, 'up', '-d');
is($status, '0', 'the topology comes up') or do { diag($err); done_testing(); exit 1; };
wait_for("$_ is healthy", sub { healthy($_) }) for qw(openbao proxy red blue green archive);

# what the containers are and may do
my @services = qw(openbao proxy red blue green archive app);
for my $service (@services) {
	my $c = decode_json(docker('inspect', id($service)))->[0];
	my $host = $c->{HostConfig};
	is($c->{Config}{User}, '5432:5432', "$service: not root");
	ok($host->{ReadonlyRootfs} && !$host->{Privileged} && "@{ $host->{CapDrop} }" eq 'ALL' && "@{ $host->{SecurityOpt} }" =~ /no-new-privileges/, "$service: read-only, without capabilities");
	is(join(' ', map { $_->{Type} } grep { $_->{Type} ne 'volume' } @{ $c->{Mounts} }), '', "$service: nothing of the host is mounted");
	is(scalar(keys %{ $host->{PortBindings} // {} }), 0, "$service: no port is published");
	unlike("@{ $c->{Config}{Env} }", qr/token|password|secret|BEGIN|[0-9a-f]{40}/i, "$service: no secret in its environment");
}
is(docker('network', 'inspect', '-f', '{{.Internal}}', map { "${project}_$_" } qw(replication kms kms-proxy application)), join("\n", ('true') x 4), 'no network has a way out');
for my $image (qw(proxy postgres openbao)) {
	my $found = docker('run', '--rm', '--network', 'none', "walcrypt-$image:test", 'sh', '-c', 'find /etc/walcrypt/id /etc/openbao/id /id /var/lib/walcrypt /var/lib/openbao /etc/ssl/private -type f 2>/dev/null; true');
	is($found, '', "image $image: no key and no certificate in it");
	is(docker('image', 'inspect', '-f', '{{index .RootFS.Layers 0}}', "walcrypt-$image:test"), docker('image', 'inspect', '-f', '{{index .RootFS.Layers 0}}', 'debian:bookworm-slim'), "image $image: it stands on debian:bookworm-slim");
}

# keys
like(in_container('blue', qw(walcrypt-ctl key show --key-dir /var/lib/postgresql/server/data/pg_cryptokeys)), qr{^provider +vault-transit://openbao:8200/transit/blue}m, 'the cluster key of blue is at OpenBao');
my @as_blue = ('run', '--rm', '--network', "${project}_kms", '-v', "${project}_id-blue:/etc/walcrypt/id:ro", '-v', "${project}_keystore:/var/lib/walcrypt", 'walcrypt-proxy:test', qw(walcrypt-ctl key verify));
is((run_to_end(60, 'docker', @as_blue, 'blue'))[0], 0, "blue's certificate opens blue's keys");
($status, $out, $err) = run_to_end(60, 'docker', @as_blue, 'green');
is($status, 4, "... and not green's");
like($err, qr/denies the token access/, 'OpenBao says so');

# data flows
in_container('app', '/topology/app', 'init');
docker('exec', '-d', id('app'), qw(/topology/app run));
wait_for('blue has what red has', follows('blue', 'red'));
is(sql('blue', 'SELECT count(*) FROM letters'), 20000, 'rows on the standby');

# a network is cut
docker('network', 'disconnect', "${project}_replication", id('blue'));
my $there = rows('red');
wait_for('red goes on without blue', sub { rows('red') > $there + 200 });
my $lsn = sql('red', 'SELECT pg_current_wal_flush_lsn()');
sleep(1);
is(sql('blue', "SELECT pg_last_wal_receive_lsn() < '$lsn'"), 't', 'which gets none of it');
docker('network', 'connect', '--alias', 'blue', "${project}_replication", id('blue'));
wait_for('the network is mended: blue has caught up', follows('blue', 'red'));

# the key server is killed, and then a server: its container starts it again, and waits for the keys
docker('kill', id('openbao'));
wait_for('blue follows without a key server', follows('blue', 'red'));
my $restarts = docker('inspect', '-f', '{{.RestartCount}}', id('blue'));
in_container('blue', 'sh', '-c', 'kill -9 $(head -1 $PGDATA/postmaster.pid)');
wait_for('the container of the killed server starts again', sub { docker('inspect', '-f', '{{.RestartCount}}', id('blue')) > $restarts });
docker('start', id('openbao'));
wait_for('OpenBao has unsealed itself', sub { healthy('openbao') });
wait_for('blue is back', follows('blue', 'red'));
docker('kill', id('proxy'));
docker('start', id('proxy'));
wait_for('the proxy was killed: blue is back', follows('blue', 'red'));
wait_for('... and the proxy healthy', sub { healthy('proxy') });

# the one-shot
sub relation_key { my ($service) = @_; return (in_container($service, qw(walcrypt-ctl key show --key-dir /var/lib/postgresql/server/data/pg_cryptokeys)) =~ /^relation key +(\w+)/m)[0]; }
sub move
{
	my ($name, $to, @args) = @_;
	($status, $out, $err) = compose(240, qw(run --rm --no-deps -T rotate), $to, @args);
	is($status, '0', $name) or diag($out, $err);
	is(scalar(() = $out =~ /^  ok    (the stream's last record|the stream ended with|the old primary's pg_control|the standby has flushed)/mg), 4, "$name: the proof has four parts");
	like($out, qr/"$to" is the primary/, "$name: the report");
	is(sql($to, 'SELECT pg_is_in_recovery()'), 'f', "$to is a primary");
	$there = rows($to);
	wait_for('the application goes on there', sub { rows($to) > $there + 100 });
	return;
}
move('the move from clear to blue', 'blue');
my $first = relation_key('blue');
move('the rotation to green', 'green', '--old', 'reencrypt');
my ($pause) = $out =~ /write pause +([0-9.]+) s/;
note("write pause of the rotation: $pause s");
my $report = decode_json(in_container('proxy', 'cat', '/var/lib/walcrypt/report.json'));
like($out, qr/keys before +relation key ([0-9a-f]{16}), WAL epoch 1.*keys after +relation key (?!\1)[0-9a-f]{16}, WAL epoch 2/s, 'other keys, another WAL epoch');
is("$report->{from} $report->{to} $report->{state}", 'blue green done', 'the report as JSON');
like(in_container('proxy', 'cat', '/var/lib/walcrypt/report.svg'), qr/<svg .*<\/svg>\s*\z/s, '... and as a picture');

# the old primary was re-encrypted in its container, and follows; so one can go back to it, under the next epoch
wait_for('blue follows green', follows('blue', 'green'));
wait_for('... and is healthy', sub { healthy('blue') });
isnt(relation_key('blue'), $first, '... under another relation key');
move('the rotation back to blue', 'blue');
like($out, qr/WAL epoch 2.*WAL epoch 3/s, '... and the third WAL epoch');
my %epochs = map { $_ => 1 } map { @{ $_->{epochs} // [] } } @{ decode_json(in_container('blue', 'sh', '-c', 'walcrypt-ctl wal --json $PGDATA/pg_wal/00000004????????????????')) };
ok($epochs{3}, '... which its directory had taken: WAL of epochs ' . join(', ', sort keys %epochs));

# those that are told to stop stay where they are
($status, $out, $err) = compose(60, qw(run --rm --no-deps -T rotate green));
is($status, 6, 'there is no way back to the keys that were rotated away');
like($err, qr/its files are under keys that were rotated away/, '... which is said');
docker('restart', '-t', '5', id('red'));
wait_for('red is healthy as it stands', sub { healthy('red') });
is(in_container('red', qw(sh -c), 'pg_isready -q -h /run/postgresql; echo $?; ls $PGDATA/standby.signal'), "2\n/var/lib/postgresql/server/data/standby.signal", 'red was told to stop: fenced, and down after a restart of its container');

# the account
wait_for('the archive has the new timeline', sub { in_container('archive', 'sh', '-c', 'ls /var/lib/postgresql/archive') =~ /^00000004[0-9A-F]{16}/m });
in_container('app', 'touch', '/tmp/stop');
wait_for('the application has ended', sub { in_container('app', qw(test -e /tmp/stopped)); 1 });
my ($acknowledged, $interrupted, $rows) = split(/ /, in_container('app', '/topology/app', 'count'));
cmp_ok($acknowledged, '>', 1000, "$acknowledged transactions were acknowledged, $interrupted clients interrupted");
cmp_ok($interrupted, '>=', 3, 'each move interrupted clients');
ok($rows >= $acknowledged && $rows <= $acknowledged + $interrupted, "each is there, once: $rows rows");

# the volumes
sql('blue', 'CHECKPOINT', 'postgres');
my ($marker) = PostgreSQL::Test::Utils::slurp_file('docker/app') =~ /^marker='(.*)'/m;
my %files = map { my ($service, $place) = /(.*):(.*)/; $service => in_container($service, 'sh', '-c', "grep -rlaF --devices=skip '$marker' /var/lib/postgresql/$place | wc -l") } qw(red:server blue:server green:server archive:archive);
cmp_ok($files{red}, '>', 0, "the application's text is in $files{red} files of red, which is in clear");
is($files{$_}, 0, "... and in none of $_") for qw(blue green archive);
done_testing();
