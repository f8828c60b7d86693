# Goal: switchover and rotation on PostgreSQL 16 to 18, under load: a clear primary, which follows on as a clear standby; then from the first encrypted
# node to the second, and the first comes back under its next relation key. From 17 on a synchronised logical slot does not stop the plan, and
# is used on the new primary where it was left; --drop-logical-slots drops the other one alone.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;

use_postgres(16) if postgres_major() < 16;

my $synchronises = postgres_major() >= 17;
my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green);
my $red = $node{red};
$red->init(allows_streaming => 'logical', extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t (i int)');
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir, allow_clear => 'on' },
	map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, keyset => $_, allow_sql => 'slotsync' } } qw(blue green) });
$proxy->key_init($_) for qw(blue green);
$proxy->start;
my @conf = ('--config', $proxy->conf);
$node{blue}->init_from_proxy($proxy, 'blue');
if ($synchronises) {
	$red->safe_psql('postgres', q{
		SELECT pg_create_physical_replication_slot('blue');
		SELECT pg_create_logical_replication_slot('app', 'test_decoding', false, false, true) });
	$node{blue}->append_conf('postgresql.auto.conf', "primary_slot_name = 'blue'\nprimary_conninfo = '" . $proxy->connstr('blue') . " application_name=blue dbname=postgres'\nhot_standby_feedback = on\nsync_replication_slots = on\n");
}
$red->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('stray', 'pgoutput')");
$node{blue}->start;
my $writers = Walcrypt::Writers->new(2, @node{qw(red blue green)});
$writers->start;

sub dry_run { return ctl_output('switchover', @conf, '--to', 'blue', '--old', 'clear', '--dry-run', @_); }
if ($synchronises) {
	wait_for('the slot to be synchronised', sub {
		$red->safe_psql('postgres', q{SELECT pg_replication_slot_advance('app', pg_current_wal_lsn()); SELECT pg_log_standby_snapshot()});
		return $node{blue}->safe_psql('postgres', q{SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = 'app'}) eq 't';
	});
}
wait_for('blue to stream', sub { (dry_run('--drop-logical-slots'))[0] == 0 });
my ($rc, $out, $err) = dry_run();
is($rc, 6, 'a logical slot that is not synchronised stops the plan');
like($out, qr/FAIL +logical slot "stray" is not synchronised to "blue"/, '... which is said') or diag($out);
if ($synchronises) {
	like($out, qr/ok +slot "app" is there, too/, 'a synchronised one does not');
	like($out, qr/note +physical slot "blue" is the one by which "blue" streams: it will not need it/, 'nor does that of the target itself');
}
unlike($out, qr/FAIL(?!.*"stray")/, 'nothing else is against it');
$red->safe_psql('postgres', "INSERT INTO t VALUES (1)");
($rc, $out, $err) = ctl_output('switchover', @conf, '--to', 'blue', '--old', 'clear', '--drop-logical-slots');
is($rc, 0, 'from clear to encrypted') or diag($out, $err);
$node{$_}->_update_pid(1) for qw(red blue);
is($node{blue}->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', '... the standby is the primary');
$node{blue}->safe_psql('postgres', "INSERT INTO t VALUES (2)");
if ($synchronises) {
	is($node{blue}->safe_psql('postgres', 'SELECT slot_name FROM pg_replication_slots'), 'app', '... with the synchronised slot, and no other');
	like($node{blue}->safe_psql('postgres', "SELECT data FROM pg_logical_slot_get_changes('app', NULL, NULL)"), qr/public\.t: INSERT: i\[integer\]:1\n.*public\.t: INSERT: i\[integer\]:2$/ms, '... which goes on where it was');
	is($red->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), 0, '... and red has none left, which would keep its WAL, and "app" from being synchronised back');
	$node{blue}->safe_psql('postgres', "SELECT pg_drop_replication_slot('app')");
	# what is for a standby of red must not be green's
	$node{blue}->safe_psql('postgres', "ALTER SYSTEM RESET primary_slot_name");
	$node{blue}->safe_psql('postgres', "ALTER SYSTEM RESET sync_replication_slots");
}
ok($red->poll_query_until('postgres', 'SELECT count(*) = 2 FROM t'), '... the old one follows in clear');

($rc, $out, $err) = ctl_output('rotate', @conf, '--to', 'green', '--old', 'reencrypt');
is($rc, 0, 'from one relation key to another') or diag($out, $err);
like($out, qr/keys before +relation key [0-9a-f]{16}, WAL epoch 1.*keys after +relation key [0-9a-f]{16}, WAL epoch 2/s, '... and to the next WAL epoch');
$node{$_}->_update_pid(1) for qw(red blue green);
$node{green}->safe_psql('postgres', "INSERT INTO t VALUES (3)");
for my $name (qw(red blue)) { ok($node{$name}->poll_query_until('postgres', 'SELECT count(*) = 3 FROM t'), "... $name follows"); }
$writers->wait_for_commits(20);
$writers->account($node{green}, only_lost_connections => 1);
for my $name (qw(red blue green)) {
	my $dir = $node{$name}->data_dir;
	system_or_bail('pg_ctl', '-D', $dir, '-m', 'fast', '-w', 'stop');
	$node{$name}->_update_pid(0);
	next if $name eq 'red';
	($rc, $out, $err) = ctl_output('verify', '-D', $dir, @conf);
	is($rc, 0, "$name: every page and WAL page is whole under its keys") or diag($out, $err);
}
done_testing();
