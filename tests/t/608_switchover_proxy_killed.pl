# Goal: the proxy is killed at every step of a switchover, and either started again at once or when walcrypt-ctl has given up; and in a
# rotation while the epoch is staged, while the target is built and while the old primary is re-encrypted. walcrypt-ctl goes on, or
# stops midway and then goes on or back; nothing is promoted without a proof, and writers lose nothing.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;
use Walcrypt::Stopped;
use Walcrypt::Strace;
use Walcrypt::Writers;

needs_strace();
my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n");
follow_later($proxy, $node{red});
$node{green} = Walcrypt::Node->new('green');
my $writers = Walcrypt::Writers->new(2, @node{qw(red blue green)});
$writers->start;
my ($from, $to, @problems) = qw(red blue);
my $logbook = $proxy->keystore . '/switchover.json';

sub state { return slurp_from($logbook) =~ /"state": "(\w+)"/ ? $1 : 'none'; }
# psql may be gone before it has read its query: then it is none
sub primary { my ($name) = @_; return (eval { $node{$name}->psql('postgres', 'SELECT pg_is_in_recovery()') })[1] // ''; }
# a standby that finds the end of the old timeline comes back for the new one
sub streams { wait_for("$to to stream", sub { IPC::Run::run([ $Walcrypt::ctl, 'switchover', '--config', $proxy->conf, '--to', $to, '--dry-run' ], '<', \undef, '>', \my $out, '2>', \my $err) }); return; }

# The old primary's own word against the logbook's: it was shut down, and at the checkpoint that was proven.
sub check_proof
{
	my ($what) = @_;
	my $last = decode_json(slurp_file($proxy->keystore . '/switchover.last.json'));
	my $control = `pg_controldata @{[$node{$from}->data_dir]}`;
	my ($is, $at) = $control =~ /^Database cluster state: +(.*)\npg_control last modified.*\nLatest checkpoint location: +(\S+)/m;
	push @problems, "$what: promoted without a proof: $is at $at, proven $last->{checkpoint}" if $is ne 'shut down' || $at ne $last->{checkpoint} || !$last->{at}{proven};
	return;
}
sub turn
{
	$node{$from}->_update_pid(0);
	$node{$from}->start;
	($from, $to) = ($to, $from);
	return;
}

my (%seen, %count);
ROUND: for my $n (1 .. 40) {
	my $known = 0;
	for my $late (0, 1) {
		last if $known;    # the same state was written before
		streams();
		my $tool = Walcrypt::Stopped->new($n, 'switchover', '--config', $proxy->conf, '--to', $to, '--timeout', 30);
		if (!$tool->stopped) {
			my ($rc, $out, $err) = $tool->finish;
			push @problems, "it ends with $rc before rename $n: $out$err" if $rc != 0;
			turn() if $rc == 0;
			last ROUND;
		}
		my $state = state();
		$known = !$late && $seen{$state};
		my $what = "proxy killed at rename $n, in state $state" . ($late ? ', and gone for longer' : '');
		$proxy->kill9;
		my $log = $proxy->log_size;
		$proxy->start if !$late;
		$tool->go_on;
		my ($rc, $out, $err) = $tool->finish;
		$proxy->start if $late;
		$seen{$state}++;
		my $is_back = 0;
		push @problems, "$what: ends with $rc: $err" if $rc != 0 && $rc != 7;
		# what it held is forgotten with it
		push @problems, "$what: it is not told to hold again" if !$late && $state =~ /^(held|quiet|fenced)$/ && $proxy->log($log) !~ /new sessions are held, as user "walcrypt_admin" says: all but $to$/m;
		push @problems, "$what: $to is promoted" if $rc == 7 && $state =~ /^(planned|slots|checkpointed|held|quiet|fenced|stopped)$/ && primary($to) eq 'f';
		if ($rc == 7) {
			my $how = $late && $state =~ /^(planned|slots|checkpointed|held|quiet|fenced)$/ && $n % 2 ? '--abort' : '--resume';
			($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, $how, '--timeout', 30);
			$count{$how}++;
			$is_back = $how eq '--abort';
			# what it knew of the stream's end is gone with it
			if ($rc == 7 && $err =~ /the proof does not hold/ && state() eq 'stopped') {
				push @problems, "$what: $to is promoted without a proof" if primary($to) ne 't';
				($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, '--abort', '--timeout', 30);
				$count{unproven}++;
				$is_back = 1;
			}
			push @problems, "$what: $how ends with $rc: $err" if $rc != 0;
		} else { $count{'by itself'}++; }
		push @problems, "$what: it leaves " . state() if state() ne 'none';
		push @problems, "$what: the proxy is paused" if $proxy->console('SHOW STATUS') !~ /^paused\|no$/m;
		push @problems, "$what: no primary" if primary($is_back ? $from : $to) ne 'f';
		check_proof($what) if !$is_back && !@problems;
		last ROUND if @problems;
		turn() if !$is_back;
	}
}
is("@problems", '', 'the proxy killed at each step: ' . join(', ', map { "$count{$_} $_" } sort keys %count));
is(join(' ', grep { !$seen{$_} } qw(planned slots checkpointed held quiet fenced stopped proven promoting promoted released moved followed settled)), '', 'in each state');
cmp_ok($count{unproven} // 0, '>', 0, 'sometimes without a proof');
cmp_ok($count{'by itself'} // 0, '>', 10, 'mostly it goes on by itself');

# a rotation, from blue
$node{$_}->_update_pid(-1) for qw(red blue);
if ($from ne 'blue') {
	streams();
	my ($rc, $out, $err) = ctl_output('switchover', '--config', $proxy->conf, '--to', 'blue');
	is($rc, 0, 'back to blue') or diag($out, $err);
	turn();
} else { pass('blue is the primary'); }
streams();
$proxy->{nodes}{green} = { conninfo => $node{green}->connstr_for_proxy, datadir => $node{green}->data_dir, keyset => 'green' };
$proxy->key_init('green');
$proxy->write_conf;
my @rotate = ('rotate', '--config', $proxy->conf, '--to', 'green', '--old', 'reencrypt');

# while the epoch is staged
my $tool = Walcrypt::Stopped->new(1, @rotate);
ok($tool->stopped, 'stopped while it stages the epoch');
$proxy->kill9;
$tool->go_on;
my ($rc, $out, $err) = $tool->finish;
isnt($rc, 0, 'without the proxy it does not go on');
like($err, qr/could not reach the proxy/, 'which is said');
is(state() . primary('blue'), 'nonef', 'nothing has begun');
$proxy->start;
streams();

# while the target is built: the base backup waits for a checkpoint that does not come
my ($checkpointer) = $node{blue}->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
kill('STOP', $checkpointer);
($out, $err) = ('', '');
my $run = IPC::Run::start([ $Walcrypt::ctl, @rotate ], '<', \undef, '>', \$out, '2>', \$err);
wait_for('the base backup', sub { $node{blue}->safe_psql('postgres', "SELECT count(*) FROM pg_stat_progress_basebackup") eq '1' });
$proxy->kill9;
$run->finish;
kill('CONT', $checkpointer);
isnt($run->full_result(0), 0, 'the proxy killed while it builds');
is(state() . primary('blue'), 'nonef', 'nothing has begun') or diag($out, $err);
$proxy->start;
streams();

# while the old primary is re-encrypted
($out, $err) = ('', '');
$run = IPC::Run::start([ $Walcrypt::ctl, @rotate ], '<', \undef, '>', \$out, '2>', \$err);
wait_for('the re-encryption', sub { state() eq 'followed' || !$run->pumpable });
$proxy->kill9;
$run->finish;
is($run->full_result(0) >> 8, 7, 'the proxy killed while the old primary is re-encrypted') or diag($out, $err);
$proxy->start;
($rc, $out, $err) = ctl_output('rotate', '--config', $proxy->conf, '--resume');
is($rc, 0, 'it goes on') or diag($out, $err);
($from, $to) = qw(green blue);
is(primary('green'), 'f', 'the target is the primary');
streams();
pass('the old one follows, under its next key');
like((ctl('key', 'show', '--key-dir', $proxy->keystore . '/blue') =~ /(epoch \d+.*)/s)[0], qr/^epoch 1.*epoch 2(?!.*epoch 3)/s, 'one epoch was staged, however often it was tried');

$writers->wait_for_commits(20);
$node{$_}->_update_pid(-1) for grep { -e $node{$_}->data_dir . '/postmaster.pid' } keys %node;
$writers->account($node{green}, only_lost_connections => 1);
system('pg_ctl -D ' . $_->data_dir . ' -m fast -w stop >/dev/null 2>&1') for grep { -e $_->data_dir . '/postmaster.pid' } values %node;
$_->_update_pid(0) for values %node;
done_testing();
