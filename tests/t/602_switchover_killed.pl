# Goal: walcrypt-ctl switchover can be killed anywhere (here: before each change of its logbook), and goes on with --resume, or back
# with --abort until the target is promoted, which then is refused; the proxy killed at the same moment changes nothing but that there may be no proof. Writers
# write all the time, and lose nothing. Two switchovers at once: the second is refused.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Pair;
use Walcrypt::Strace;
use Walcrypt::Writers;

needs_strace();
my $tmp = PostgreSQL::Test::Utils::tempdir();
my ($proxy, %node) = red_and_blue("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\n", settings => { switchover_hook => "sh $tmp/hook" });
my ($red, $blue) = @node{qw(red blue)};
follow_later($proxy, $red);
PostgreSQL::Test::Utils::append_to_file("$tmp/hook", "echo \"\$WALCRYPT_ACTION \$WALCRYPT_NODE\" >>$tmp/hooked\nwhile [ -e $tmp/wait ]; do sleep 0.05; done\n");
my $writers = Walcrypt::Writers->new(2, $red, $blue);
$writers->start;
my @switchover = ('switchover', '--config', $proxy->conf, '--timeout', 60);
my ($from, $to) = ('red', 'blue');

sub state { return slurp_from($proxy->keystore . '/switchover.json') =~ /"state": "(\w+)"/ ? $1 : 'none'; }
# psql may be gone before it has read its query: then it is none
sub primary { my ($name) = @_; return (eval { $node{$name}->psql('postgres', 'SELECT pg_is_in_recovery()') })[1] // ''; }

# The old primary comes as a standby, so that one can go back.
sub turn
{
	$node{$from}->_update_pid(0);
	$node{$from}->start;
	($from, $to) = ($to, $from);
	return;
}
# as it will be asked for; a standby that finds the end of the old timeline comes back for the new one
sub streams { wait_for("$to to stream", sub { IPC::Run::run([ $Walcrypt::ctl, @switchover, '--to', $to, '--dry-run' ], '<', \undef, '>', \my $out, '2>', \my $err) }); return; }

# Run it, killed before its nth rename; 0 when it came to its end before.
sub killed
{
	my ($n) = @_;
	waitpid(in_background("$tmp/out", 'strace', '-q', '-o', '/dev/null', '-e', 'trace=rename', '-e', "inject=rename:signal=KILL:when=$n", $Walcrypt::ctl, @switchover, '--to', $to), 0);
	return $? != 0;
}

# two at once
PostgreSQL::Test::Utils::append_to_file("$tmp/wait", '');
streams();
my $first = IPC::Run::start([ $Walcrypt::ctl, @switchover, '--to', $to ], '<', \undef, '>', "$tmp/first", '2>', "$tmp/first.err");
wait_for('the first', sub { -e "$tmp/hooked" });
my ($rc, $out, $err) = ctl_output(@switchover, '--to', $to);
is($rc, 6, 'of two at once the second is refused');
like($err, qr/another switchover is running, in process \d+/, 'with the reason');
($rc, $out, $err) = ctl_output(@switchover, '--abort');
is($rc, 6, 'nor can it be aborted from outside');
unlink "$tmp/wait";
$first->finish;
is(scalar($first->full_result(0)), 0, 'the first comes to its end') or diag(slurp_file("$tmp/first.err"));
is(slurp_file("$tmp/hooked"), "pause red\nswitch blue\n", 'the hook was told');
turn();

my (%seen, @problems);
my ($n, $rounds, $aborted, $unproven) = (0, 0, 0, 0);
for (1 .. 60) {
	streams();
	$n++;
	unlink "$tmp/out";
	last if !killed($n);
	$rounds++;
	my $state = state();
	my $is_back = $state =~ /^(none|planned|slots|checkpointed|held|quiet|fenced|stopped|proven)$/;
	my $what = "killed at $n, in state $state";
	$seen{$state}++;
	print "# $what\n";
	my $proxy_too = $n % 3 == 2;
	if ($proxy_too) { $proxy->kill9; $proxy->start; }
	if ($state eq 'none') {
		push @problems, "$what: the primary is gone" if primary($from) ne 'f';
		next;
	}
	if ($state =~ /^(promoted|released|moved|followed|settled)$/) {
		# even if it cannot be asked
		my $is_down = $state eq 'moved';
		$node{$to}->kill9 if $is_down;
		($rc, $out, $err) = ctl_output(@switchover, '--abort');
		$node{$to}->start if $is_down;
		push @problems, "$what: --abort ends with $rc: $err" if $rc != 6 || $err !~ /"$to" is promoted: there is no way back/;
	}
	my @how = $is_back && $n % 2 ? '--abort' : '--resume';
	($rc, $out, $err) = ctl_output(@switchover, @how);
	# without what the proxy remembered there is no proof, and the way back is open
	if ($rc == 7 && $proxy_too && $err =~ /the proof does not hold/ && $state =~ /^(fenced|stopped)$/) {
		$unproven++;
		@how = '--abort';
		($rc, $out, $err) = ctl_output(@switchover, @how);
	}
	push @problems, "$what: @how ends with $rc: $err" if $rc != 0;
	my $primary = $how[0] eq '--abort' ? $from : $to;
	push @problems, "$what: @how leaves " . state() if state() ne 'none';
	push @problems, "$what: @how: $primary is no primary" if primary($primary) ne 'f';
	push @problems, "$what: the proxy is paused" if $proxy->console('SHOW STATUS') !~ /^paused\|no$/m;
	push @problems, "$what: it ended by itself: " . slurp_from("$tmp/out") if slurp_from("$tmp/out") =~ /^ERROR/m;
	last if @problems;
	if ($how[0] eq '--abort') {
		$aborted++;
		push @problems, "$what: the fence is still there" if -e $node{$from}->data_dir . '/standby.signal';
	} else { turn(); }
}
is("@problems", '', "killed $rounds times: each time it went on, or back ($aborted times; $unproven without a proof)") or diag(slurp_from("$tmp/out"));
print '# states: ' . join(' ', map { "$_ $seen{$_}" } sort keys %seen) . "\n";
is(join(' ', grep { !$seen{$_} } qw(planned slots checkpointed held quiet fenced stopped proven promoting promoted released moved followed settled)), '', 'killed in each state');
$writers->wait_for_commits(20);
my $now = primary('red') eq 'f' ? $red : $blue;
$writers->account($now, only_lost_connections => 1);
# whoever runs, in whatever order
system("pg_ctl -D " . $_->data_dir . " -m fast -w stop >/dev/null 2>&1") for $red, $blue;
$_->_update_pid(0) for $red, $blue;
done_testing();
