# walcrypt-ctl reencrypt is killed, again and again, at random moments and at chosen ones (before each of its changes of the directory's
# names and of pg_cryptokeys), and resumed: no server starts in between, no row is lost, and no page is left under another key than
# its neighbours.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use Walcrypt;
use Walcrypt::Contents;
use Walcrypt::Strace;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/reencrypt_crash';
mkdir $tmp, 0700;
my $marker = 'MARKER-crash-88d1';
my $kek = 'file:' . kek_file("$tmp/kek");
my $node = Walcrypt::Node->new('one');
$node->init(extra => ['-k']);
$node->start;
contents_make($node, $marker, "$tmp/space");
# large enough to be worked on by several threads
$node->safe_psql('postgres', qq{
	CREATE TABLE large (id int, body text) WITH (autovacuum_enabled = off);
	ALTER TABLE large ALTER body SET STORAGE plain;
	INSERT INTO large SELECT i, repeat(md5(i::text), 240) FROM generate_series(1, 8300) i;
});
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
	my $pid = in_background("$tmp/out", @$wrapper, $Walcrypt::ctl, 'reencrypt', '-D', $dir, '--kek', $kek, '-j', 2, @args);
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
# six rounds, and more where a machine that stood still let it get away
for my $round (1 .. 20) {
	last if $round > 6 && $kills >= 8 && $midways >= 4;
	$to = target();
	my ($tries, $status, $before, $resume) = (0, -1, keys_of(), 0);
	while ($status != 0) {
		# the last try is left alone, so that it ends for certain
		my $from = time();
		$status = run_it([], $tries++ < 12 ? rand($takes * 0.7) : undef, $resume ? '--resume' : ('--to', $to));
		if ($status & 127) {
			$kills++;
			$midways += check_midway("round $round, kill $tries");
		} elsif ($status != 0) {
			last;
		} elsif (!$resume && time() - $from < $takes) {
			$takes = time() - $from;    # that it took longer once says nothing
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
my $writes = 'ftruncate,fallocate,pwrite64';
SKIP: {
	skip_without_strace(1);
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
	$points{ $first_file + 9 + int(rand(@files / 3)) } = '-f' for 1 .. 8;
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
	# killed while an old file is made a new one, and written over
	my $over = 0;
	for my $point (map { 12 + int(rand($_)) } 10, 40, 40, @files / 4, @files / 4) {
		$to = target();
		my $status = run_it([ @strace, '-f', '-e', "trace=$writes", '-e', "inject=$writes:signal=KILL:when=$point" ], undef, '--to', $to);
		my $name = "killed at write $point of a thread (-> $to)";
		isnt($status, 0, $name);
		next if !check_midway($name);
		$over++;
		is(run_it([], undef, '--resume'), 0, '... resumed') or diag(slurp_from("$tmp/out"));
		check_end($name, $to, 1);
	}
	cmp_ok($over, '>=', 3, "killed at $over writes");
	# what a power cut may leave of that: the old name, and under it whatever was written over it, the temporary name too or not
	$to = target();
	isnt(run_it([ @strace, '-f', '-e', "trace=$calls", '-e', "inject=$calls:signal=KILL:when=" . ($first_file + 9 + int(@files / 6)) ], undef, '--to', $to), 0, "killed midway (-> $to)");
	my @done = grep { !-e } map { s/\.walcrypt-new$//r } map { chomp; $_ } `find -L $dir/base $dir/global $dir/pg_tblspc -name '*.walcrypt-new'`;
	cmp_ok(scalar @done, '>', 8, '(' . @done . ' files are done)');
	for my $i (0 .. $#done) {
		open(my $f, '>', $done[$i]) or die;
		print $f "\xa7" x (8192 * ($i % 3));
		close $f;
		if ($i % 4 == 0) { link($done[$i], "$done[$i]_of.walcrypt-tmp") or die; }
	}
	is(run_it([], undef, '--resume'), 0, '... old names that came back: resumed') or diag(slurp_from("$tmp/out"));
	check_end('old names that came back', $to, 1);
	# a file system without O_DIRECT, and one that says so late
	for my $fault ('fcntl:error=EINVAL', 'pwrite64:error=EINVAL:when=2') {
		my ($call) = $fault =~ /^(\w+)/;
		$to = target();
		is(run_it([ @strace, '-f', '-e', "trace=$call", '-e', "inject=$fault" ], undef, '--to', $to), 0, "through the cache ($fault)") or diag(slurp_from("$tmp/out"));
		cmp_ok(scalar(() = slurp_from("$tmp/strace") =~ /INJECTED/g), '>', 0, '... it was asked for');
		check_end("through the cache ($fault)", $to, 1);
	}
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

# a disk that does not give back what was written: no old file is given up for that, and it goes on when the disk is well again
system_or_bail('gcc', '-shared', '-fPIC', '-D_GNU_SOURCE', '-o', "$tmp/bad_disk.so", "$FindBin::RealBin/../preload/bad_disk.c", '-ldl');
my $unlike = qr/does not read back as it was written/;
for my $fault ([ 'error', qr/could not read file "[^"]*\.walcrypt-tmp" back: Input\/output error/ ], [ 'short', $unlike ], [ 'changed', $unlike ]) {
	my ($how, $words) = @$fault;
	$to = target();
	is(run_it([ 'env', "LD_PRELOAD=$tmp/bad_disk.so", 'BAD_DISK=.walcrypt-tmp', $how eq 'error' ? () : "BAD_DISK_GIVES=$how" ], undef, '--to', $to) >> 8, 7, "read back: $how");
	like(slurp_from("$tmp/out"), qr/^ERROR:  .*$words/m, '... is said');
	check_midway("read back: $how");
	is(join(' ', grep { !-s } @files), '', '... all old files are there');
	is(run_it([], undef, '--resume'), 0, '... resumed') or diag(slurp_from("$tmp/out"));
	check_end("read back: $how", $to, 1);
}

# asked to stop, it stops midway and says how to go on; again, where a busy machine has asked it too late
my ($out, $err, $run);
for (1 .. 5) {
	($out, $err) = ('', '');
	$to = target();
	$run = IPC::Run::start([ $Walcrypt::ctl, 'reencrypt', '-D', $dir, '--kek', $kek, '--to', $to, '-j', 1 ], '<', \undef, '>', \$out, '2>', \$err);
	wait_for('its first file', sub { my @new = glob("$dir/base/1/*.walcrypt-new"); $run->pump_nb; return @new || !$run->pumpable });
	$run->signal('INT');
	$run->finish;
	last if $run->full_result(0) != 0;
	$encrypted = $to ne 'none';
}
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
