# Goal: after a failover the dead primary comes back by pg_rewind, as docs/switchover.md says it, under walcrypt-ctl exec when it is encrypted: it has WAL that nobody
# else ever got. A clear one, and then an encrypted one, whose source is clear the first time and encrypted the second; each follows
# the new primary through the proxy, keeps its own relation key, and its rows that were never acknowledged are gone.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;
use Walcrypt::Writers;

my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\nwal_log_hints = on\nsynchronous_standby_names = '*'\nsynchronous_commit = remote_write\n",
	fill => sub { $_[0]->safe_psql('postgres', "SET synchronous_commit = local; CREATE TABLE t (i int, at text)") });
my @conf = ('--config', $proxy->conf);
my $writers = Walcrypt::Writers->new(2, @node{qw(red blue)});
$writers->start;
my ($primary, $standby, $number) = ('red', 'blue', 0);
my $key = (ctl('key', 'show', '-D', $node{blue}->data_dir) =~ /^relation key +(\w+)/m)[0];

for my $round (1 .. 2) {
	my ($dead, $new) = ($primary, $standby);
	my $dir = $node{$dead}->data_dir;
	$proxy->wait_for_stream($new, $dead);
	$writers->wait_for_commits(50);
	# nobody gets what comes now
	$proxy->kill9;
	my $checkpoint = $node{$dead}->safe_psql('postgres', "SET synchronous_commit = local; INSERT INTO t SELECT i, 'lost in round $round' FROM generate_series(1, 20000) i; CHECKPOINT; SELECT count(*) FROM t WHERE at = 'lost in round $round'");
	is($checkpoint, '20000', "round $round: $dead has what nobody else has");
	$node{$dead}->kill9;
	$proxy->start;
	my ($rc, $out, $err) = ctl_output('failover', @conf, '--to', $new);
	is($rc, 0, "round $round: failover to $new") or diag($out, $err);
	# it must not wait for the one that is dead
	$node{$new}->safe_psql('postgres', "SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = ''");
	$node{$new}->reload;
	$node{$new}->safe_psql('postgres', "INSERT INTO t VALUES (0, 'kept in round $round'); CHECKPOINT");
	$writers->wait_for_commits(50);

	# it takes the other's configuration, so its own is put back; the fence would keep it from recovering
	my @own = map { slurp_file("$dir/$_") } my @files = qw(postgresql.conf postgresql.auto.conf);
	unlink "$dir/standby.signal";
	my @rewind = ('pg_rewind', '-D', $dir, '--source-server', $node{$new}->connstr_for_proxy . ' dbname=postgres', '-R', '--no-sync');
	if ($dead eq 'red') {
		system_or_bail(@rewind);
	} else {
		my ($rc, $out, $err) = ctl_output('exec', '-D', $dir, @conf, '--', @rewind);
		is($rc, 0, "round $round: pg_rewind under walcrypt-ctl exec") or diag($out, $err);
	}
	for my $i (0, 1) {
		open(my $f, '>', "$dir/$files[$i]") or die;
		print $f $own[$i];
		close $f;
	}
	ok(-e "$dir/standby.signal", "round $round: it is a standby");
	$node{$dead}->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $proxy->connstr($dead) . " application_name=$dead'\n");
	$node{$dead}->_update_pid(0);
	$node{$dead}->start;
	my $lsn = $node{$new}->lsn('insert');
	ok($node{$dead}->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'"), "round $round: $dead follows through the proxy");
	is($node{$dead}->safe_psql('postgres', "SELECT count(*) FROM t WHERE at = 'lost in round $round'"), '0', "round $round: what nobody had is gone");
	is($node{$dead}->safe_psql('postgres', "SELECT count(*) FROM t WHERE at = 'kept in round $round'"), '1', "round $round: what came since is there");
	# and what the other side acknowledges from now on it has, too
	$node{$new}->safe_psql('postgres', "SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = '*'");
	$node{$new}->reload;
	wait_for("$dead to be synchronous", sub { $node{$new}->safe_psql('postgres', "SELECT string_agg(sync_state, '') FROM pg_stat_replication") eq 'sync' });
	($primary, $standby) = ($new, $dead);
}
is((ctl('key', 'show', '-D', $node{blue}->data_dir) =~ /^relation key +(\w+)/m)[0], $key, 'the encrypted one has kept its relation key');
$writers->wait_for_commits(20);
$writers->account($node{red});
$node{blue}->check_integrity('blue', primary => $node{red});
my ($rc, $out, $err) = ctl_output('verify', '-D', $node{blue}->data_dir, @conf);
is($rc, 0, 'every page and WAL page of it is whole under its keys') or diag($out, $err);
$node{red}->stop;
done_testing();
