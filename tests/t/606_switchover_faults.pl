# Goal: faults around the promotion. One that fails (the standby cannot write): it goes on when it can; there is no way back while the standby
# runs, but there is one when it is down and was not promoted. Logical slots stop the plan unless they are given up. A proxy that is
# gone, and a hook that fails, are said, and the way back is open.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($proxy, %node) = red_and_blue("wal_level = logical\nwal_retrieve_retry_interval = 200ms\nwal_keep_size = 128MB\n",
	fill => sub { $_[0]->safe_psql('postgres', 'CREATE TABLE t (i int)') }, settings => { switchover_hook => "sh $tmp/hook" });
my ($red, $blue) = @node{qw(red blue)};
my @switchover = ('switchover', '--config', $proxy->conf);
my $n = 0;
sub insert { $n++; $red->safe_psql('postgres', "INSERT INTO t VALUES ($n)"); $red->wait_for_catchup('blue'); return; }
sub is_back
{
	my ($what) = @_;
	is($red->safe_psql('postgres', 'SELECT pg_is_in_recovery(), count(*) FROM t'), "f|$n", "$what: the primary is back, with its rows");
	ok(!-e $red->data_dir . '/standby.signal' && !-e $proxy->keystore . '/switchover.json', "$what: nothing is left of it");
	is($proxy->console('SHOW STATUS') =~ /^paused\|no$/m ? 1 : 0, 1, "$what: nor is the proxy paused") if defined $proxy->pid;
	return;
}

# a hook that fails
insert();
append_to_file("$tmp/hook", "echo \"\$WALCRYPT_ACTION\" >>$tmp/hooked\n[ \"\$WALCRYPT_ACTION\" != pause ] || { echo 'no bouncer' >&2; exit 1; }\n");
my ($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue');
is($rc, 7, 'a hook that fails');
like($err, qr/switchover_hook: command ended with exit status 1.*no bouncer/s, 'is said');
($rc, $out, $err) = ctl_output(@switchover, '--abort');
is($rc, 0, 'and put back');
is_back('hook');
is(slurp_file("$tmp/hooked"), "pause\nresume\n", 'the traffic, too');
unlink "$tmp/hook";
# one that talks
append_to_file("$tmp/hook", "yes | head -c 100000\n");

# without the proxy
$proxy->stop;
($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue');
is($rc, 6, 'without the proxy nothing begins') or diag($err);
like("$out$err", qr/could not reach the proxy/, 'which is said');
$proxy->start;
is_back('no proxy');

# slots of which the second cannot be made
$red->safe_psql('postgres', "SELECT pg_create_physical_replication_slot(name, true) FROM unnest(ARRAY['one', 'two']) AS name");
$blue->append_conf('postgresql.auto.conf', "max_replication_slots = 1\n");
$blue->restart;
wait_for('blue', sub { $proxy->console('SHOW STANDBYS') =~ /^blue\|blue\|[^|]*\|streams\|/m });
($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue');
is($rc, 7, 'slots that cannot all be made') or diag($out, $err);
like($err, qr/all replication slots are in use/, '... which is said');
is($blue->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots') . (-e $red->data_dir . '/standby.signal' ? ' fenced' : ''), '1', '... before the primary is fenced');
($rc, $out, $err) = ctl_output(@switchover, '--abort');
is($rc, 0, '... put back');
is($blue->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '0', '... and none is left on the target');
$red->safe_psql('postgres', 'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
$blue->append_conf('postgresql.auto.conf', "max_replication_slots = 10\n");
$blue->restart;

# logical slots
wait_for('blue', sub { $proxy->console('SHOW STANDBYS') =~ /^blue\|blue\|[^|]*\|streams\|/m });
insert();
$red->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('app', 'test_decoding')");
($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue', '--dry-run');
is($rc, 6, 'a logical slot that the target does not have');
like($out, qr/FAIL +logical slot "app" is not synchronised to "blue" \(--drop-logical-slots gives it up\)/, 'stops the plan');

# a promotion that fails
chmod 0500, $blue->data_dir;
($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue', '--drop-logical-slots');
is($rc, 7, 'a promotion that fails');
like($err, qr/ERROR:  node "blue": .*could not create file "promote": Permission denied/, 'says why');
like(slurp_file($proxy->keystore . '/switchover.json'), qr/"state": "promoting"/, 'it is midway');
($rc, $out, $err) = ctl_output(@switchover, '--abort');
is($rc, 6, 'while the target runs there is no way back');
like($err, qr/"blue" was asked to promote itself, and may still do so/, 'as it may still be promoted');
chmod 0700, $blue->data_dir;
$blue->kill9;
($rc, $out, $err) = ctl_output(@switchover, '--abort');
is($rc, 0, 'down, and a standby as before: it is put back') or diag($err);
$red->_update_pid(1);
is_back('promotion');
is($red->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '0', 'the slot is given up');
$blue->start;
insert();

# the picture's figures cannot be kept: it is begun, and the operator is told so
mkdir($proxy->keystore . '/switchover.samples') or die;
($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue', '--report', "$tmp/report");
is($rc, 7, 'no place for what the report shows: midway');
like($err, qr/switchover\.samples.*HINT:  Nothing is promoted\. Go on with .*--resume, or put everything back with --abort\./s, 'which it says') or diag($err);
rmdir($proxy->keystore . '/switchover.samples');
($rc, $out, $err) = ctl_output(@switchover, '--abort');
is($rc, 0, 'it is put back') or diag($err);
is_back('samples');

# and one that goes on
chmod 0500, $blue->data_dir;
($rc, $out, $err) = ctl_output(@switchover, '--to', 'blue');
is($rc, 7, 'it fails again');
chmod 0700, $blue->data_dir;
($rc, $out, $err) = ctl_output(@switchover, '--resume');
is($rc, 0, 'and goes on when it can') or diag($err);
is($blue->safe_psql('postgres', 'SELECT pg_is_in_recovery(), count(*) FROM t'), "f|$n", 'the standby is the primary, with every row');
$red->_update_pid(0);
$blue->stop;
done_testing();
