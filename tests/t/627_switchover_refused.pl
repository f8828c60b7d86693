# Goal: each check before a switchover refuses what it is for, with nothing begun: roles that may not do what they must, a primary without checksums, a standby that is
# behind or delayed, does not stream through the proxy, streams from another node, or has other keys than the configuration says; one of another cluster, major version or timeline;
# a pg_control that is not the primary's; a fate of the old primary that cannot be; two primaries; nothing to encrypt.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;

my ($proxy, %node) = red_and_blue("wal_level = logical\nwal_retrieve_retry_interval = 100ms\nwal_keep_size = 128MB\nautovacuum = off\n");
my ($red, $blue) = @node{qw(red blue)};
my %section = map { $_ => { %{ $proxy->{nodes}{$_} } } } qw(red blue);
$red->safe_psql('postgres', "CREATE ROLE weak LOGIN; SELECT pg_create_physical_replication_slot('spare')");
$red->wait_for_catchup('blue', 'replay', $red->lsn('flush'));

# Refused, each of the checks that does not hold being among these and the other way round.
sub refused
{
	my ($what, $fails, @args) = @_;
	unshift @args, '--to', 'blue' unless grep { $_ eq '--to' } @args;
	my ($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, @args);
	is($rc, 6, "$what: refused") or diag($out, $err);
	my @failed = $out =~ /^  FAIL  (.*)$/mg;
	@failed = $err =~ /^ERROR:  (.*)$/mg if !@failed;
	my $ok = @failed == @$fails;
	for my $i (0 .. $#$fails) { $ok &&= $failed[$i] =~ /^$fails->[$i]/; }
	ok($ok, "$what: for that reason, and no other") or diag(join("\n", @failed));
	ok(!-e $proxy->keystore . '/switchover.json' && !-e $red->data_dir . '/standby.signal', "$what: nothing is begun");
	return $out;
}
# With other lines in the sections of the configuration; undef: without that one.
sub with
{
	my ($red_has, $blue_has, $do) = @_;
	$proxy->{nodes} = { %section, red => { %{ $section{red} }, %$red_has }, blue => { %{ $section{blue} }, %$blue_has } };
	for my $s (@{ $proxy->{nodes} }{qw(red blue)}) { delete @$s{ grep { !defined $s->{$_} } keys %$s }; }
	$proxy->write_conf;
	$do->();
	$proxy->{nodes} = { map { $_ => { %{ $section{$_} } } } keys %section };
	$proxy->write_conf;
	return;
}
my ($weak_red, $weak_blue) = map { { control_conninfo => 'host=' . $node{$_}->host . ' port=' . $node{$_}->port . ' user=weak' } } qw(red blue);
with({}, $weak_blue, sub {
	my $out = refused("a role of the standby's", [ 'the role of "blue" may call pg_promote there$', 'the role of "blue" may make and drop slots there$' ]);
	like($out, qr/HINT:  GRANT EXECUTE ON FUNCTION pg_promote TO weak, in database postgres\.$/m, '... with what to grant');
	like($out, qr/HINT:  ALTER ROLE weak REPLICATION\.$/m, '... and what to alter'); });
with($weak_red, {}, sub {
	my $out = refused("a role of the primary's", [ 'the role of "red" may order a checkpoint there$', 'the role of "red" sees who streams there$' ]);
	like($out, qr/HINT:  GRANT pg_checkpoint TO weak\.\n.*HINT:  GRANT pg_monitor TO weak\.$/ms, '... with what to grant'); });
$red->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('app', 'test_decoding')");
with($weak_red, {}, sub {
	refused("a role of the primary's, and a slot to be dropped", [ 'the role of "red" may order a checkpoint there$', 'the role of "red" sees who streams there$', 'the role of "red" may make and drop slots there$' ],
		'--drop-logical-slots'); });
$red->safe_psql('postgres', "SELECT pg_drop_replication_slot('app')");

# fates of the old primary
refused('a clear one re-encrypted', [ '"red" has a keyset, which --old=reencrypt renews$', 'another standby streams while "red" is re-encrypted' ], '--old', 'reencrypt');
with({ allow_clear => 'off' }, {}, sub { refused('a clear one that may not follow', [ '"red" can follow as a clear standby' ], '--old', 'clear'); });

# keys
$proxy->key_init('other');
with({}, { keyset => 'other' }, sub { refused('other keys', [ 'the directory of "blue" has relation key \w{16}, and keyset "other" has \w{16}$' ]); });
with({}, { keyset => 'absent' }, sub { refused('no keys', ['the keysets can be read: ']); });
with({}, { datadir => '/nonexistent' }, sub { refused('a directory without keys', ['the keys of "blue" can be read: ']); });
with({}, { conninfo => undef }, sub { refused('a target that nobody can reach', ['node "blue" has no conninfo$']); });

# the primary's pg_control
my $control_data = 'pg_controldata ' . $red->data_dir;
my %far = (datadir => undef, control => 'true');
with({ datadir => $blue->data_dir }, {}, sub { refused("a standby's pg_control", ['pg_control of "red" is of this cluster and says "in archive recovery"$']); });
with({ %far, control_data => "$control_data | sed s/identifier:.*/identifier:7/" }, {}, sub {
	my $out = refused("another cluster's pg_control", ['pg_control of "red" is of this cluster and says "in production"$']);
	like($out, qr/^  note  nothing keeps "red" from being started as a primary again: its section has no fence$/m, '... and that nothing fences it is said'); });
with({ %far, control_data => 'false' }, {}, sub { refused('no pg_control', ['pg_control of "red" can be read: control_data of node "red": command ended with exit status 1']); });
with({%far}, {}, sub { refused('nothing that shows pg_control', ['nothing says how to read pg_control of node "red"$']); });
with({ datadir => undef }, {}, sub { refused('nothing that stops the primary', ['nothing says how to stop and start node "red"$']); });

# behind
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 5000) i');
$red->wait_for_catchup('blue', 'flush', $red->lsn('flush'));
refused('far behind', [ '"blue" replays without pause or delay$', 'it is \d+ kB behind \(allowed: 1 MB\)$' ], '--max-lag', 1);
$blue->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$red->wait_for_catchup('blue', 'replay', $red->lsn('flush'));

# delayed
sub delay
{
	my ($delay) = @_;
	$blue->safe_psql('postgres', "ALTER SYSTEM SET recovery_min_apply_delay = '$delay'");
	$blue->reload;
	$blue->poll_query_until('postgres', 'SHOW recovery_min_apply_delay', $delay) or die;
	return;
}
delay('1h');
refused('delayed', ['"blue" replays without pause or delay$']);
delay('0');

# in clear as the primary, and streaming from the other standby
my $grey = Walcrypt::Node->new('grey');
$section{grey} = { conninfo => $grey->connstr_for_proxy, allow_clear => 'on', upstream => 'blue' };
$proxy->{nodes}{grey} = { %{ $section{grey} } };
$proxy->write_conf;
$proxy->console('RELOAD');
$grey->init_from_proxy($proxy, 'grey');
$grey->use_layer(undef);
$grey->start;
wait_for('grey to stream', sub { $proxy->console('SHOW STANDBYS') =~ /^grey\|grey\|[^|]*\|streams\|\d+\|blue\|/m });
refused('a clear standby of another one', [ '"grey" is as clear as "red": nothing would be encrypted$', 'it streams from "blue"$' ], '--to', 'grey');
$grey->stop;
delete $section{grey};

# of another cluster, and another major version
my $bin = "$ENV{WALCRYPT_POSTGRES}/" . (postgres_major() == 17 ? 16 : 17) . '/postgres/pginstall/bin';
my ($stranger, $ours) = (Walcrypt::Node->new('stranger'), postgres_major());
system_or_bail("$bin/initdb", '-N', '-k', '-A', 'trust', '--no-locale', '-D', $stranger->data_dir);
append_to_file($stranger->data_dir . '/postgresql.conf', 'port = ' . $stranger->port . "\nlisten_addresses = ''\nunix_socket_directories = '" . $stranger->host . "'\n");
append_to_file($stranger->data_dir . '/standby.signal', '');
system_or_bail("$bin/pg_ctl", '-D', $stranger->data_dir, '-l', $stranger->logfile, '-w', 'start');
$proxy->key_init('stranger');
$section{stranger} = { conninfo => $stranger->connstr_for_proxy, keyset => 'stranger' };
with({}, {}, sub { refused('a stranger', [ '"red" and "stranger" are of one cluster, \d+$', "both are PostgreSQL $ours\$", '"stranger" streams through the proxy$' ], '--to', 'stranger'); });
system_or_bail("$bin/pg_ctl", '-D', $stranger->data_dir, '-m', 'fast', '-w', 'stop');
delete $section{stranger};

# not through the proxy
my $conninfo = $blue->safe_psql('postgres', 'SHOW primary_conninfo');
$blue->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'");
$blue->reload;
wait_for('the stream to end', sub { $proxy->console('SHOW STANDBYS') !~ /^blue\|blue\|[^|]*\|streams\|/m });
refused('no stream', [ '"blue" streams through the proxy$' ]);
$blue->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = '$conninfo'");
$blue->reload;

# checksums
$blue->stop;
$red->stop;
system_or_bail('pg_checksums', '--disable', '-D', $red->data_dir);
$red->start;
$blue->start;
wait_for('blue to stream', sub { $proxy->console('SHOW STANDBYS') =~ /^blue\|blue\|[^|]*\|streams\|/m });
refused('no checksums', ['data checksums are on$']);

# two primaries
$blue->stop;
my $twin = Walcrypt::Node->new('twin');
$red->backup('twin');
$twin->init_from_backup($red, 'twin');
$twin->start;
$section{twin} = { conninfo => $twin->connstr_for_proxy, keyset => 'none' };
$blue->start;
with({}, {}, sub { refused('two primaries', [ 'nodes "(?:red|twin)" and "(?:red|twin)" are both primaries$' ]); });

# a timeline of its own; checksums may be done without
sub as_standby { $twin->stop; append_to_file($twin->data_dir . '/standby.signal', ''); $twin->start; return; }
as_standby();
$twin->promote;
as_standby();
with({}, {}, sub { refused('another timeline', [ '"twin" is on the primary\'s timeline, 1$', '"twin" is as clear as "red": nothing would be encrypted$', '"twin" streams through the proxy$' ], '--to', 'twin', '--allow-no-checksums'); });
$_->stop for $blue, $twin;
with({}, {}, sub {
	my ($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, '--to', 'blue');
	is($rc, 4, 'a target that is down');
	like($err, qr/^ERROR:  could not reach node "blue".*\nHINT:  Its server must run, /ms, '... is named'); });
$red->stop;
done_testing();
