# walcrypt-ctl reencrypt is killed, again and again, at random moments and at chosen ones (before each of its changes of the directory's
# names and of pg_cryptokeys), and resumed: no server starts in between, no row is lost, and no page is left under another key than
# its neighbours.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use Walcrypt;
use Walcrypt::Contents;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/reencrypt_crash';
mkdir $tmp, 0700;
my $marker = 'MARKER-crash-88d1';
my $kek = 'file:' . kek_file("$tmp/kek");
my $node = Walcrypt::Node->new('one');
$node->init(extra => ['-k']);
$node->start;
contents_make($node, $marker, "$tmp/space");
$node->stop;
$node->start;
my $sums = contents_sums($node);
$node->stop;
my $dir = $node->data_dir;
my $encrypted = 0;

# Run it, perhaps under a wrapper, and perhaps kill it after some seconds; wait status.
sub run_it
{
	my ($wrapper, $after, @args) = @_;
	my $pid = fork() // die;
	if ($pid == 0) {
		open(STDOUT, '>>', "$tmp/out");
		open(STDERR, '>>', "$tmp/out");
		exec(@$wrapper, $Walcrypt::ctl, 'reencrypt', '-D', $dir, '--kek', $kek, '-j', 2, @args) or POSIX::_exit(127);
	}
	if (defined $after) { sleep($after); kill('KILL', $pid); }
	waitpid($pid, 0);
	return $?;
}

# Where it goes from here: through all the kinds of change in turn.
my @kinds = qw(new none new new none);
my $turn = 0;
sub target { return $encrypted ? $kinds[ $turn++ % @kinds ] : 'new'; }

# Under which keys it is.
sub keys_of { return -e "$dir/pg_cryptokeys" ? (ctl_output('key', 'show', '-D', $dir))[1] =~ /^relation key +(\w+)/m ? $1 : 'unknown' : 'none'; }

# Midway: nobody starts a server, and that is said.
sub check_midway
{
	my ($name) = @_;
	return 0 if !-e "$dir/pg_reencrypt/record" || -e "$dir/global/pg_control";
	my $log = "$tmp/log";
	unlink $log;
	my @problems;
	push @problems, 'a stock server starts' if system("pg_ctl -D $dir -l $log -w -t 20 start >/dev/null 2>&1") == 0;
	push @problems, 'it says something else: ' . slurp_from($log) if slurp_from($log) !~ /could not find the database system/;
	my ($rc, undef, $err) = ctl_output('reencrypt', '-D', $dir, '--to', 'new', '--kek', $kek);
	push @problems, "another begin: $rc $err" if $rc != 7 || $err !~ /was stopped midway\nHINT:  If none runs: walcrypt-ctl reencrypt -D \S+ --resume/;
	push @problems, map { "$_ is there twice or not at all" } grep { !-e $_ && !-e "$_.walcrypt-new" } our @files;
	is("@problems", '', "$name: midway no server starts, every file is there");
	return 1;
}

# All files that are about to change, non-empty.
sub files_of { return grep { -s } map { chomp; $_ } `find -L $dir/base $dir/global $dir/pg_tblspc -type f -regextype posix-extended -regex '.*/[0-9]+(_[a-z]+)?'`; }
our @files = files_of();

sub check_end
{
	my ($name, $to, $thorough, $whole) = @_;
	$encrypted = $to ne 'none';
	my @left = (`find -L $dir -name '*.walcrypt-*'`, # what a kill before the first or after the last step leaves there is nothing, and goes with the next run
		grep { -e } map { "$dir/pg_reencrypt/$_" } qw(record global/pg_control old-keys));
	my $found = files_containing($marker, $dir);
	my ($rc, $out) = $encrypted ? ctl_output('verify', '-D', $dir, '--kek', $kek) : (system("pg_checksums -c -D $dir >/dev/null 2>&1"), '');
	is("@left $rc " . ($encrypted ? $found : $found > 0 ? 'clear' : 'lost'), $encrypted ? ' 0 0' : ' 0 clear', "$name: all of it is done, and nothing else") or diag($out);
	return if !$thorough;
	$node->use_layer($encrypted ? $kek : undef)->start;
	is(contents_sums($node), $sums, "$name: the same rows");
	if ($whole) {
		$node->check_integrity($name);
	} else {
		contents_sound($node, $name);
		$node->stop;
	}
	@files = files_of();
	return;
}

# kill -9 at random moments, several times in one re-encryption
srand(my $seed = time());
print "# seed $seed\n";
my $begun = time();
my $to = target();
is(run_it([], undef, '--to', $to), 0, 'how long it takes');
my $takes = time() - $begun;
check_end("clear -> $to", $to, 1);
my ($kills, $midways) = (0, 0);
for my $round (1 .. 6) {
	$to = target();
	my ($tries, $status, $before, $resume) = (0, -1, keys_of(), 0);
	while ($status != 0) {
		# the last try is left alone, so that it ends for certain
		$status = run_it([], $tries++ < 12 ? rand($takes * 0.7) : undef, $resume ? '--resume' : ('--to', $to));
		if ($status & 127) {
			$kills++;
			$midways += check_midway("round $round, kill $tries");
		} elsif ($status != 0) {
			last;
		}
		$resume = -e "$dir/pg_reencrypt/record";
		# killed after the last step: that is an end, too
		$status = 0 if !$resume && keys_of() ne $before;
	}
	is($status, 0, "round $round (-> $to): it comes to its end after $tries tries") or diag(slurp_from("$tmp/out"));
	check_end("round $round", $to, 1, 1);
}
cmp_ok($kills, '>=', 8, "killed $kills times");
cmp_ok($midways, '>=', 4, "... $midways times midway");

# killed before its nth rename, unlink, mkdir or fsync: strace counts, and kills; for each thread by itself, and without -f in the main
# thread alone, which begins and ends everything
my @strace = ('strace', '-q', '-o', "$tmp/strace");
my $calls = 'rename,unlink,rmdir,mkdir,fsync';
SKIP: {
	skip 'strace cannot trace here', 1 if system("strace -q -o $tmp/strace true 2>/dev/null") != 0;
	# how many there are, by running it under the tracer once
	$to = 'new';
	is(run_it([ @strace, '-e', "trace=$calls" ], undef, '--to', $to), 0, 'under strace');
	# a protected process's arguments cannot be read, so its phases are told by the kinds of calls: each file takes several, and at the end
	# they are all renamed in a row
	my @trace = map { /^(rename|unlink|rmdir|mkdir|fsync)\(/ ? $1 : () } split(/\n/, slurp_from("$tmp/strace"));
	my $n = @trace;
	check_end('under strace', $to, 0);
	my ($row, $end, $in) = (0, 0, 0);
	for my $i (0 .. $#trace) {
		$in = $trace[$i] eq 'rename' ? $in + 1 : 0;
		($row, $end) = ($in, $i + 1) if $in > $row;
	}
	my $first_file = 1 + (grep { $trace[$_] eq 'mkdir' } 0 .. $#trace)[-1] + 12;
	cmp_ok($row, '>=', @files, 'the trace shows how the files are put in their places') or diag("@trace[0 .. 80]");
	# every second call of the beginning, of the change of keys and of the end, and some of the many alike in between, in other threads, too
	my $odd = int(rand(2));
	my %points = map { $_ => '' } (grep { $_ % 2 == $odd } 1 .. $first_file + 8, $end - $row - 24 .. $end - $row + 4, $end - 2 .. $n), map { int(rand($n)) + 1 } 1 .. 4;
	$points{ $first_file + 9 + int(rand(2 * @files)) } = '-f' for 1 .. 6;
	my $dead = 0;
	for my $point (sort { $a <=> $b } grep { $_ >= 1 && $_ <= $n } keys %points) {
		$to = target();
		my $before = keys_of();
		my $status = run_it([ @strace, $points{$point} || (), '-e', "trace=$calls", '-e', "inject=$calls:signal=KILL:when=$point" ], undef, '--to', $to);
		$dead++ if $status != 0;
		my $name = "killed at call $point of $n" . ($points{$point} ? ' in a thread' : '') . " (-> $to)";
		check_midway($name);
		if (-e "$dir/pg_reencrypt/record") {
			$status = run_it([], undef, '--resume');
			is($status, 0, "$name: resumed") or diag(slurp_from("$tmp/out"));
		} elsif (keys_of() eq $before) {
			cmp_ok($point, '<=', $first_file, "$name: nothing was begun");
			$to = $encrypted ? 'new' : 'none';
		}
		check_end($name, $to, $point % 7 == 0);
	}
	cmp_ok($dead, '>', 30, "killed at $dead calls");
	# killed while it resumes, at the last steps
	for my $step (1 .. 4) {
		$to = target();
		run_it([ @strace, '-e', "trace=$calls", '-e', "inject=$calls:signal=KILL:when=" . ($end - $row - 4) ], undef, '--to', $to);
		my $again = 0;
		run_it([ @strace, '-e', "trace=$calls", '-e', "inject=$calls:signal=KILL:when=" . $step * ++$again ], undef, '--resume') while -e "$dir/pg_reencrypt/record" && $again < 8;
		$dead += $again;
		if (-e "$dir/pg_reencrypt/record") { is(run_it([], undef, '--resume'), 0, "killed $again times in the resumption: resumed"); }
		check_end("killed $again times in the resumption", keys_of() eq 'none' ? 'none' : 'new', 0);
	}
}
check_end('at the end', $encrypted ? 'new' : 'none', 1, 1);

# asked to stop, it stops midway and says how to go on
my ($out, $err) = ('', '');
$to = target();
my $run = IPC::Run::start([ $Walcrypt::ctl, 'reencrypt', '-D', $dir, '--kek', $kek, '--to', $to, '-j', 1 ], '<', \undef, '>', \$out, '2>', \$err);
wait_for('its first file', sub { glob("$dir/base/1/*.walcrypt-new") || !$run->pumpable });
$run->signal('INT');
$run->finish;
is($run->full_result(0) >> 8, 7, 'interrupted: exit status 7');
like($err, qr/^ERROR:  stopped\nHINT:  No data is lost.*reencrypt -D \S+ --resume$/m, '... says how to go on');
my ($rc, undef, $words) = ctl_output('verify', '-D', $dir, '--kek', $kek);
isnt($rc, 0, 'verify midway');
like($words, qr/was stopped midway|is not encrypted/, '... says what is the matter');
($rc, undef, $words) = ctl_output('reencrypt', '-D', $dir, '--resume', '--to', 'elsewhere', '--kek', $kek);
is($rc, 2, 'resumed to other keys');
($rc, undef, $words) = ctl_output('reencrypt', '-D', $dir, '--resume', '--kek', 'file:' . kek_file("$tmp/kek2"));
is($rc, 5, 'resumed with a wrong cluster key');
my $record = slurp_from("$dir/pg_reencrypt/record");
open(my $f, '>', "$dir/pg_reencrypt/record") or die;
print $f substr($record, 0, 100);
close $f;
($rc, undef, $words) = ctl_output('reencrypt', '-D', $dir, '--resume', '--kek', $kek);
is($rc, 3, 'a damaged record');
like($words, qr/record" is damaged\nHINT:  Nothing was changed/, '... is said');
open($f, '>', "$dir/pg_reencrypt/record") or die;
print $f $record;
close $f;
# no room: what was written goes, what is there stays
is(run_it([ 'sh', '-c', 'ulimit -f 16; trap "" XFSZ; exec "$@"', 'sh' ], undef, '--resume') >> 8, 7, 'a disk that is full: exit status 7');
is(join(' ', `find -L $dir -name '*.walcrypt-tmp'`), '', '... leaves no half file');
($rc, undef, $words) = ctl_output('reencrypt', '-D', $dir, '--resume', '--kek', $kek);
is($rc, 0, 'and with room it goes on') or diag($words);
check_end('the last one', $to, 1, 1);
done_testing();
