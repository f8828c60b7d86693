# Goal: a cluster of Debian's Patroni (with etcd): its replicas are built through the proxy, its servers run by the shims, and a switchover is
# proven in pre_promote. patronictl switchover from clear to encrypted, one that is refused because the standby has not replayed everything, and
# walcrypt-ctl rotate while Patroni is paused, all under load: no acknowledged commit is lost, and no marker on the encrypted members' disks.
use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;

my $marker = 'marker-620-schutzherr';
my $tmp = PostgreSQL::Test::Utils::tempdir();
my $user = getpwuid($<);
my @names = qw(pg1 pg2 pg3);
my %node = map { $_ => Walcrypt::Node->new($_) } @names;
my %api = map { $_ => PostgreSQL::Test::Cluster::get_free_port() } @names;
my ($etcd_port, $peer_port) = map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 2;

my $proxy = Walcrypt::Proxy->new(nodes => {
	map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, keyset => $_ eq 'pg1' ? 'none' : $_, ($_ eq 'pg1' ? (allow_clear => 'on') : ()) } } @names });
# what the members have for walcrypt-ctl build and the shims, as /etc/walcrypt/walcrypt.ini would be
mkdir "$tmp/empty", 0700;
append_to_file("$tmp/member.ini", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/empty\n[kek site]\nuri = " . $proxy->kek_uri . "\n"
	. join('', map { "[node $_]\nkeyset = $_\nkek = site\n" } @names));
chmod 0600, "$tmp/member.ini";
$ENV{WALCRYPT_CONFIG} = "$tmp/member.ini";

# The sample, with this machine's addresses; each line to be changed must be there.
sub write_config
{
	my ($name) = @_;
	my $n = $node{$name};
	my $text = slurp_file('conf/patroni/patroni.yml');
	my $set = sub { my ($what, $by, $count) = @_; my $done = $text =~ s/$what/$by/g; die "$what stands $done times in the sample" if $done != ($count // 1); };
	$text =~ s/^#.*\n//mg;
	$set->(qr/^    - (local|host|hostssl) .*\n/m, '', 3);
	$set->(qr/\bpg2\b/, $name, 4);
	$set->(qr/10\.0\.0\.21:2379.*/, "127.0.0.1:$etcd_port");
	$set->(qr/10\.0\.0\.12:8008/, "127.0.0.1:$api{$name}", 2);
	$set->(qr/ttl: 30/, 'ttl: 20');
	$set->(qr/loop_wait: 10/, 'loop_wait: 1');
	$set->(qr/retry_timeout: 10/, 'retry_timeout: 9');
	$set->(qr/^  pg_hba:\n/m, "  pg_hba:\n    - local all all trust\n    - local replication all trust\n");
	$set->(qr/listen: 10\.0\.0\.12,127\.0\.0\.1:5432/, 'listen: 127.0.0.1:' . $n->port);
	$set->(qr/connect_address: proxy.example.com:6434/, 'connect_address: 127.0.0.1:' . $proxy->port);
	$set->(qr/-h proxy.example.com -p 6434/, '-h 127.0.0.1 -p ' . $proxy->port);
	$set->(qr/host=proxy.example.com port=6434 user=monitor dbname=walcrypt sslmode=verify-full/, $proxy->tcp('monitor') . ' dbname=walcrypt');
	$set->(qr/      password: secret\n      sslmode: verify-full\n/, '');
	$set->(qr{/usr/local/libexec/walcrypt/bin}, "$Walcrypt::prefix/libexec/walcrypt/bin");
	$set->(qr{command: /usr/local/bin/walcrypt-ctl}, "command: $Walcrypt::ctl");
	$set->(qr{/usr/local/share/walcrypt/patroni/walcrypt-pre-promote}, "$tmp/pre-promote --wait 3");
	$set->(qr{ssh .* pg_controldata /var/lib/postgresql/15/main}, "pg_controldata $tmp/%n");
	$set->(qr{/var/lib/postgresql/15/main}, $n->data_dir, 2);
	$set->(qr{/var/lib/postgresql/pgpass.patroni}, "$tmp/pgpass.$name");
	$set->(qr{/run/postgresql}, $n->host, 2);
	$set->(qr/user=postgres/, 'user=' . $user . ' port=' . $n->port);
	$set->(qr/username: postgres/, "username: $user");
	$set->(qr/wal_keep_size: 1GB/, "wal_keep_size: 256MB\n    wal_retrieve_retry_interval: 200ms");
	append_to_file("$tmp/$name.yml", $text);
	symlink($n->data_dir, "$tmp/$name") or die;
	return;
}
mkdir $_->archive_dir for values %node;
system_or_bail('cp', "conf/patroni/walcrypt-$_", "$tmp/$_") for qw(pre-promote rotate);
write_config($_) for @names;

my %pid;
sub log_of { my ($name) = @_; return "$PostgreSQL::Test::Utils::log_path/620_patroni_$name.log"; }
sub patroni { my ($name) = @_; $pid{$name} = in_background(log_of($name), 'patroni', "$tmp/$name.yml"); return; }

END
{
	my $status = $?;
	# Patroni must not start again what is stopped
	my @patronis = grep { defined } @pid{ @names, 'etcd' };
	kill('KILL', @patronis);
	waitpid($_, 0) for @patronis;
	for my $n (values %node) {
		system('pg_ctl -D ' . $n->data_dir . ' -m immediate stop >/dev/null 2>&1') if -e $n->data_dir . '/postmaster.pid';
	}
	$? = $status;
}

# The members as the cluster sees them: name => "role state".
sub members
{
	my $out = '';
	IPC::Run::run([ 'patronictl', '-c', "$tmp/pg1.yml", 'list', '-f', 'json' ], '<', \undef, '>', \$out, '2>', '/dev/null') or return {};
	return { map { $_->{Member} => lc("$_->{Role} $_->{State}") } @{ decode_json($out) } };
}
# Wait until one leads and the others stream from it, not only the pg_basebackup that builds one; the leader's name.
sub settled
{
	my ($what) = @_;
	my $leader;
	wait_for($what, sub {
		my $m = members();
		($leader) = grep { $m->{$_} eq 'leader running' } keys %$m;
		return 0 if !defined $leader || keys %$m != 3;
		my $rows = ($node{$leader}->psql('postgres', "SELECT count(DISTINCT application_name) FROM pg_stat_replication WHERE state = 'streaming' AND application_name IN ('pg1', 'pg2', 'pg3')"))[1];
		return ($rows // '') eq '2';
	});
	return $leader;
}
sub patronictl
{
	my (@args) = @_;
	my ($out) = ('');
	IPC::Run::run([ 'patronictl', '-c', "$tmp/pg1.yml", @args ], '<', \undef, '>&', \$out);
	my $rc = $? >> 8;
	print "# patronictl @args: exit $rc\n", map { "#   $_\n" } split(/\n/, $out);
	return $rc;
}

$pid{etcd} = in_background(log_of('etcd'), 'etcd', '--data-dir', "$tmp/etcd", '--listen-client-urls', "http://127.0.0.1:$etcd_port", '--advertise-client-urls', "http://127.0.0.1:$etcd_port",
	'--listen-peer-urls', "http://127.0.0.1:$peer_port", '--initial-advertise-peer-urls', "http://127.0.0.1:$peer_port", '--initial-cluster', "default=http://127.0.0.1:$peer_port", '--log-level', 'error');
wait_for('etcd', sub { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$etcd_port") });

# a plain cluster to begin with; then two members, built through the proxy
patroni('pg1');
wait_for('the first member', sub { (members()->{pg1} // '') eq 'leader running' });
my $pg1 = $node{pg1};
$pg1->safe_psql('postgres', "CREATE ROLE $_ LOGIN REPLICATION") for qw(pg2 pg3);
$pg1->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 10000) i; CREATE INDEX ON t (text); CHECKPOINT");
$proxy->key_init($_) for qw(pg2 pg3);
$proxy->start;
patroni($_) for qw(pg2 pg3);
is(settled('all members'), 'pg1', 'three members, and the first leads');
my %streams = map { /^(\w+)\|(\w+)\|.*\|streams\|/ ? ("$1 $2" => 1) : () } split(/\n/, $proxy->console('SHOW STANDBYS'));
is(join(', ', sort keys %streams), 'pg2 pg2, pg3 pg3', 'they stream through the proxy, each as its node');
like(slurp_file(log_of($_)), qr/replica has been created using walcrypt/, "$_ was built by walcrypt-ctl") for qw(pg2 pg3);
cmp_ok(scalar(files_containing($marker, $pg1->data_dir)), '>', 0, 'control: the marker is on the first member\'s disk');
my $facts = 'SELECT count(*), sum(i), sum(hashtext(text)) FROM t';
my $sum = $pg1->safe_psql('postgres', $facts);
my $writers = Walcrypt::Writers->new(2, map { $node{$_} } @names);
$writers->start;
$writers->wait_for_commits(50);

# switchover: Patroni's own, proven in pre_promote
is(patronictl('switchover', 'main', '--master', 'pg1', '--candidate', 'pg2', '--force'), 0, 'patronictl switchover');
is(settled('the switchover'), 'pg2', 'pg2 leads, the others stream from it');
like(slurp_file(log_of('pg2')), qr/walcrypt-pre-promote: the old primary "pg1" was shut down at [0-9A-F\/]+, and this server has replayed past it/, 'proven');
is($node{pg2}->safe_psql('postgres', $facts), $sum, 'it has every row');
$writers->wait_for_commits(50);

# the first member gets keys, too
$proxy->{nodes}{pg1} = { conninfo => $pg1->connstr_for_proxy, datadir => $pg1->data_dir, keyset => 'pg1' };
$proxy->write_conf;
$proxy->key_init('pg1');
$proxy->console('RELOAD');
is(patronictl('reinit', 'main', 'pg1', '--force'), 0, 'patronictl reinit');
wait_for('pg1 to be encrypted', sub { -e $pg1->data_dir . '/pg_cryptokeys/live/keyset.json' });
is(settled('pg1'), 'pg2', 'built anew through the proxy');

# a standby that has not replayed everything is not promoted
my $startup = $node{pg3}->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'");
kill('STOP', $startup); # Patroni would resume what pg_wal_replay_pause pauses
$writers->wait_for_commits(50);
my $offset = -s log_of('pg3');
patronictl('switchover', 'main', '--master', 'pg2', '--candidate', 'pg3', '--force');
wait_for_file_line(log_of('pg3'), qr/walcrypt-pre-promote: not promoted: "pg2" was shut down at [0-9A-F\/]+, and this server has received up to [0-9A-F\/]+ and replayed up to [0-9A-F\/]+ only/, $offset);
ok(1, 'a standby that has not replayed everything is not promoted');
kill('CONT', $startup);
my $leader = settled('another leader');
isnt($leader, 'pg3', "$leader leads");
like(slurp_file(log_of($leader)), qr/walcrypt-pre-promote: (this server was the primary itself, was shut down at|the old primary "pg2" was shut down at)/, '... by a proof of its own');
$writers->wait_for_commits(50);

# rotation, while Patroni looks on
my ($to) = grep { $_ ne $leader } qw(pg1 pg2);
my ($rc, $out, $err) = (0, '', '');
{
	local $ENV{PATRONI_CONFIG} = "$tmp/pg1.yml";
	local $ENV{PATH} = "$Walcrypt::prefix/bin:$ENV{PATH}";
	my @rotate = ("$tmp/rotate", 'main', $to, '--config', $proxy->conf, '--old', 'reencrypt');
	IPC::Run::run([ @rotate, '--timeout', 'x' ], '<', \undef, '>&', \$out);
	is($? >> 8, 2, 'a rotation that does not begin');
	unlike(scalar(`patronictl -c $tmp/pg1.yml list`), qr/Maintenance mode/, '... leaves the cluster as it was');
	IPC::Run::run([@rotate], '<', \undef, '>', \$out, '2>', \$err);
	$rc = $? >> 8;
}
is($rc, 0, "rotate from $leader to $to") or diag($out, $err);
print "# $_\n" for split(/\n/, $out);
is(settled('the rotation'), $to, "Patroni has taken $to for the leader, and the others stream from it");
$writers->wait_for_commits(50);

$writers->account($node{$to}, only_lost_connections => 1);
my $end = $node{$to}->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
for my $name (grep { $_ ne $to } @names) {
	wait_for("$name to follow", sub { ($node{$name}->psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '$end'"))[1] eq 't' });
	is($node{$name}->safe_psql('postgres', $facts), $sum, "$name has every row");
}

# what the proof goes by, without Patroni, which leaves the servers running while it is paused
is(patronictl('pause', 'main', '--wait'), 0, 'patronictl pause');
like(scalar(`patronictl -c $tmp/pg1.yml list`), qr/Maintenance mode: on/, '... which the list tells');
kill('TERM', @pid{@names});
waitpid(delete $pid{$_}, 0) for @names;
sub hook
{
	my ($name, $want, $what, $test, @options) = @_;
	my ($said, $n) = ('', $node{$name});
	IPC::Run::run([ "$tmp/pre-promote", '--wait', 1, '--node', $name, '--server', 'host=' . $n->host . ' port=' . $n->port . " user=$user dbname=postgres",
		'--console', $proxy->tcp('monitor') . ' dbname=walcrypt', '--controldata', "pg_controldata $tmp/%n", @options ], '<', \undef, '>&', \$said);
	my $rc = $? >> 8;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is("$rc $said", "$rc " . ($said =~ $what ? $said : "$what"), $test);
	is($rc, $want, "... exit status $want");
	return;
}
sub server
{
	my ($name, $action, @more) = @_;
	ctl('exec', '-D', $node{$name}->data_dir, '--', 'pg_ctl', '-D', $node{$name}->data_dir, '-l', log_of("${name}_server"), '-w', @more, $action);
	return;
}
sub as_standby { my ($name) = @_; append_to_file($node{$name}->data_dir . '/standby.signal', ''); server($name, 'restart'); return; }
hook('pg3', 0, qr/nothing is proven: the old primary "$to" was not shut down in good order: its pg_control says "in production"/, 'while the primary runs nothing is proven');
hook('pg3', 1, qr/nothing is proven: .*--failover=refuse keeps this server from being promoted/, '... which --failover=refuse takes for a reason', '--failover', 'refuse');
hook('pg3', 1, qr/nothing is proven: no such machine/, 'nor if the old primary cannot be asked', '--failover', 'refuse', '--controldata', 'echo no such machine >&2; false');
server($to, 'stop', '-m', 'fast');
hook('pg3', 0, qr/the old primary "$to" was shut down at .*, and this server has replayed past it/, 'the primary was shut down: proven', '--failover', 'refuse');
as_standby($to);
like(scalar(`pg_controldata $tmp/$to`), qr/in archive recovery/, 'it was started again as a standby');
hook('pg3', 0, qr/the old primary "$to" was shut down at .*, and this server has replayed past it/, '... proven still', '--failover', 'refuse');
hook($to, 0, qr/this server was the primary itself, was shut down at/, '... and the old primary itself has everything', '--failover', 'refuse');
server($to, 'stop', '-m', 'fast');
unlink($node{$to}->data_dir . '/standby.signal');
server($to, 'restart');
$node{$to}->safe_psql('postgres', "INSERT INTO t VALUES (0, 'written after the shutdown')");
server($to, 'stop', '-m', 'immediate');
hook('pg3', 1, qr/nothing is proven: the old primary "$to" was not shut down in good order/, 'it was a primary again, and crashed: nothing is proven', '--failover', 'refuse');
as_standby($to);
like(scalar(`pg_controldata $tmp/$to`), qr/in archive recovery/, 'started as a standby after that');
hook('pg3', 1, qr/nothing is proven: the old primary "$to" was not shut down in good order: its pg_control says "in archive recovery"/, '... that is no proof either', '--failover', 'refuse');
hook($to, 1, qr/nothing is proven|not promoted/, '... nor for itself', '--failover', 'refuse');
server($_, 'stop', '-m', 'fast') for @names;

for my $name (@names) {
	is(scalar(() = files_containing($marker, $node{$name}->data_dir)), 0, "$name: the marker is nowhere");
	($rc, $out, $err) = ctl_output('verify', '-D', $node{$name}->data_dir, '--config', $proxy->conf);
	is($rc, 0, "$name: every page and WAL page is whole under its keys") or diag($out, $err);
}
is(scalar(keys %{ { map { (ctl('key', 'show', '-D', $node{$_}->data_dir) =~ /^relation key +(\w+)/m)[0] => 1 } @names } }), 3, 'each under a relation key of its own');
done_testing();
