# Goal: a proxy that is frozen answers nothing and closes nothing: walcrypt-ctl does not wait for it for ever, --abort gives the traffic back to the old primary all the same, and once
# more puts back the rest when the proxy goes on.
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

append_to_file("$tmp/hook", "echo \$WALCRYPT_ACTION >>$tmp/hooked\n[ \$WALCRYPT_ACTION != pause ] || kill -STOP $proxy->{pid}\n");
sub ctl_limited
{
	my ($out, $err);
	IPC::Run::run([ 'timeout', '-s', 'KILL', 120, $Walcrypt::ctl, 'switchover', '--config', $proxy->conf, @_ ], '<', \undef, '>', \$out, '2>', \$err);
	note($out, $err);
	return ($? >> 8, $err);
}
my ($rc, $err) = ctl_limited('--to', 'blue', '--timeout', 3);
is($rc, 7, 'a proxy that is frozen stops a switchover midway');
like($err, qr/^ERROR:  .*could not reach the proxy|^ERROR:  .*the proxy did not answer SHOW STANDBYS within 10 s/m, '... which is said');
is(slurp_file("$tmp/hooked"), "pause\n", '... with the traffic held');
($rc, $err) = ctl_limited('--resume');
is($rc, 7, 'nor does it go on');
like($err, qr/HINT:  .*--abort/, '... what can be done is said');
($rc, $err) = ctl_limited('--abort');
is($rc, 7, 'all but the proxy is put back');
is(slurp_file("$tmp/hooked"), "pause\nresume\n", '... the traffic goes on');
is($red->safe_psql('postgres', 'INSERT INTO t VALUES (1) RETURNING pg_is_in_recovery()'), 'f', '... to the old primary');
kill('CONT', $proxy->{pid});
($rc, $err) = ctl_limited('--abort');
is($rc, 0, 'the rest follows when the proxy goes on') or diag($err);
ok(!-e $red->data_dir . '/standby.signal' && !-e $proxy->keystore . '/switchover.json', '... and nothing is left of it');
wait_for('blue to stream', sub { $proxy->console('SHOW STANDBYS') =~ /^blue\|blue\|[^|]*\|streams\|/m });
is($proxy->console('SHOW SESSIONS') =~ /held/ ? 1 : 0, 0, '... nobody is held');
$_->stop for $blue, $red;
done_testing();
