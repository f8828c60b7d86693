# Goal: the old primary of a rotation was started as a primary again before it was re-encrypted, and wrote: it cannot follow, which is said before anything is done to its
# directory, and walcrypt-ctl never removes that itself. Removed by the operator, an encrypted one is built anew by --resume, under its next relation key; a clear one
# by pg_basebackup. And one that was started in between as the standby that its fence makes of it, follows already, but under the keys that it shall lose: it is stopped, and
# re-encrypted.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Stopped;
use Walcrypt::Strace;

needs_strace();
my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green);
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) i');
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir, allow_clear => 'on' },
	map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, keyset => $_ } } qw(blue green) });
$proxy->key_init($_) for qw(blue green);
$proxy->start;
my @conf = ('--config', $proxy->conf);
my $logbook = $proxy->keystore . '/switchover.json';

for (['red', 'blue', 'clear'], ['blue', 'green', 'reencrypt']) {
	my ($from, $to, $fate) = @$_;
	my $dir = $node{$from}->data_dir;
	my $before = $fate eq 'reencrypt' ? relation_key("$dir/pg_cryptokeys") : '';
	$node{$from}->safe_psql('postgres', "INSERT INTO t VALUES (0)");
	my $tool = Walcrypt::Stopped->at_state($proxy->keystore, 'followed', 'rotate', @conf, '--to', $to, '--old', $fate, '--yes');
	$tool->kill9;
	$node{$from}->_update_pid(0);
	unlink "$dir/standby.signal";
	# walcrypt-ctl has told it on the command line where to listen
	$node{$from}->append_conf('postgresql.auto.conf', 'port = ' . $node{$from}->port . "\nunix_socket_directories = '" . $node{$from}->host . "'\n");
	$node{$from}->use_layer($proxy->kek_uri) if $fate eq 'reencrypt';
	$node{$from}->start;
	$node{$from}->safe_psql('postgres', 'INSERT INTO t VALUES (-1); CHECKPOINT');
	$node{$from}->stop;
	my ($rc, $out, $err) = ctl_output('rotate', @conf, '--resume');
	is($rc, 7, "$fate: one that was a primary again") or diag($out, $err);
	like($err, qr/ERROR:  "$from" was a primary again since it was stopped, so it cannot follow\n.*HINT:  Remove its data directory "\Q$dir\E"; --resume builds it anew then\.|ERROR:  "$from" was a primary again since it was stopped, so it cannot follow\n.*HINT:  Build it anew through the proxy and start it, then go on with --resume\./s, "$fate: ... is not taken back, and it is said what to do");
	ok(-e "$dir/PG_VERSION" && !-e "$dir/pg_reencrypt" && !-e "$dir/postmaster.pid", "$fate: ... its directory is as it was");
	system_or_bail('rm', '-r', $dir);
	if ($fate eq 'clear') {
		system_or_bail('pg_basebackup', '-D', $dir, '-d', $proxy->connstr($from), '--checkpoint=fast', '--no-sync', '-R');
		$red->append_conf('postgresql.auto.conf', 'port = ' . $red->port . "\nunix_socket_directories = '" . $red->host . "'\nprimary_conninfo = '" . $proxy->connstr('red') . " application_name=red'\n");
		$red->start;
	}
	($rc, $out, $err) = ctl_output('rotate', @conf, '--resume');
	is($rc, 0, "$fate: built anew it follows") or diag($out, $err);
	ok(!-e $logbook, "$fate: ... and the rotation is over");
	$node{$_}->_update_pid(1) for $from, $to;
	my $lsn = $node{$to}->lsn('flush');
	ok($node{$from}->poll_query_until('postgres', "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() >= '$lsn'"), "$fate: it follows");
	is($node{$from}->safe_psql('postgres', 'SELECT count(*), min(i) FROM t'), $node{$to}->safe_psql('postgres', 'SELECT count(*), min(i) FROM t'), "$fate: with the new primary's rows");
	is($node{$from}->safe_psql('postgres', 'SELECT min(i) FROM t'), 0, "$fate: ... and without what it wrote alone");
	if ($fate eq 'clear') {
		ok(!-e "$dir/pg_cryptokeys", "$fate: in clear, as before");
	} else {
		isnt(relation_key("$dir/pg_cryptokeys"), $before, "$fate: under another relation key than before");
		is(relation_key("$dir/pg_cryptokeys"), relation_key($proxy->keystore . "/$from"), "$fate: ... the keystore's");
	}
}

# started as a standby, it streams under its old keys
my $dir = $node{green}->data_dir;
my $before = relation_key("$dir/pg_cryptokeys");
wait_for('blue to stream', sub { IPC::Run::run([ $Walcrypt::ctl, 'switchover', @conf, '--to', 'blue', '--dry-run' ], '<', \undef, '>', \my $o, '2>', \my $e) });
my $tool = Walcrypt::Stopped->at_state($proxy->keystore, 'followed', 'rotate', @conf, '--to', 'blue', '--old', 'reencrypt', '--yes');
$tool->kill9;
system_or_bail('sed', '-i', '/^primary_conninfo/d', "$dir/postgresql.auto.conf");
$node{green}->append_conf('postgresql.conf', 'port = ' . $node{green}->port . "\nunix_socket_directories = '" . $node{green}->host . "'\nprimary_conninfo = '" . $proxy->connstr('green') . " application_name=green keepalives_idle=77'\n");
$node{green}->_update_pid(0);
$node{green}->use_layer($proxy->kek_uri);
$node{green}->start;
ok($node{green}->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"), 'the old primary, started, follows');
# a keyset that another cluster has left under the name that green's keys will have
my ($tli) = slurp_file($logbook) =~ /"new_timeline": (\d+)/;
my $left = $proxy->keystore . "/green-before-$tli";
system_or_bail('cp', '-r', $proxy->keystore . '/blue', $left);
my ($rc, $out, $err) = ctl_output('rotate', @conf, '--resume');
is($rc, 7, 'a keyset of that name is no sign that all is done') or diag($out, $err);
like($err, qr/ERROR:  keyset "\Q$left\E" is there already\nHINT:  /, '... and said');
rename($left, "$left-of-old") or die;
($rc, $out, $err) = ctl_output('rotate', @conf, '--resume');
is($rc, 0, '... it goes on') or diag($out, $err);
isnt(relation_key("$dir/pg_cryptokeys"), $before, '... and the old primary is under another relation key than before');
is(relation_key("$dir/pg_cryptokeys"), relation_key($proxy->keystore . '/green'), "... the keystore's");
like($node{green}->safe_psql('postgres', 'SHOW primary_conninfo'), qr/keepalives_idle=77/, '... its own primary_conninfo is left to it, whichever file has it');
ok($node{green}->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"), '... and follows');
for my $node (values %node) { system_or_bail('pg_ctl', '-D', $node->data_dir, '-m', 'fast', '-w', 'stop'); $node->_update_pid(0); }
done_testing();
