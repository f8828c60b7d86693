# Goal: a target that is frozen, as by its machine's, answers nothing and closes nothing: the switchover is given up within its time, the old primary takes writes again, and the traffic
# goes on; walcrypt-ctl does not wait for an answer that never comes.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;

my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 128MB\n", settings => { switchover_hook => "sh $tmp/hook" });
my ($red, $blue) = @node{qw(red blue)};
$red->safe_psql('postgres', 'CREATE TABLE t (i int)');
wait_for('blue to stream', sub { $proxy->console('SHOW STANDBYS') =~ /^blue\|blue\|[^|]*\|streams\|/m });

# with the backend that walcrypt-ctl is connected to
sub children { my ($pid) = @_; return split(' ', slurp_file("/proc/$pid/task/$pid/children")); }
my ($postmaster) = slurp_file($blue->data_dir . '/postmaster.pid') =~ /^(\d+)/;
append_to_file("$tmp/hook", "echo \$WALCRYPT_ACTION >>$tmp/hooked\n[ \$WALCRYPT_ACTION != pause ] || kill -STOP $postmaster \$(cat /proc/$postmaster/task/$postmaster/children)\n");
my ($out, $err);
my $begun = time();
my $ok = IPC::Run::run([ 'timeout', '-s', 'KILL', 90, $Walcrypt::ctl, 'switchover', '--config', $proxy->conf, '--to', 'blue', '--timeout', 8 ], '<', \undef, '>', \$out, '2>', \$err);
my $took = time() - $begun;
kill('CONT', $postmaster, children($postmaster));
is($ok ? 0 : 1, 1, 'a target that is frozen') or diag($out, $err);
cmp_ok($took, '<', 60, "is given up, after $took s");
like($err, qr/^ERROR:  given up, and everything put back: the standby's catching up did not happen within 8 s\nDETAIL:  "blue": it does not answer\./m, '... which is said') or diag($out, $err);
is(slurp_file("$tmp/hooked"), "pause\nresume\n", '... the traffic goes on');
is($red->safe_psql('postgres', 'INSERT INTO t VALUES (1) RETURNING pg_is_in_recovery()'), 'f', '... to the old primary, which was never away');
ok(!-e $red->data_dir . '/standby.signal' && !-e $proxy->keystore . '/switchover.json', '... and nothing is left of it');
$_->stop for $blue, $red;
done_testing();
