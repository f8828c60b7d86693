# walcrypt-ctl reencrypt, from one relation key to the next, against cp of the same files: both read all, write all and have it on the disk at the
# end; with the files in the system's cache and with none of them in it. What reencrypt does besides is read back what it wrote.
use strict;
use warnings;
use Bench;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $gigabytes = $ENV{BENCH_GB} // 2;
my $node = Walcrypt::Node->new('one');
$node->init(extra => ['-k']);
$node->append_conf('postgresql.conf', "max_wal_size = 8GB\n");
$node->start;
$node->command_ok([ 'pgbench', '-q', '-i', '-s', int($gigabytes * 1024 / 15) + 1, 'postgres' ], 'fill');
$node->stop;
my $dir = $node->data_dir;
my $kek = 'file:' . kek_file("$tmp/kek");
ctl('reencrypt', '-D', $dir, '--to', 'new', '--to-kek', $kek);
my $log = "$tmp/bench.err";

sub files { return map { chomp; $_ } `find $dir/base $dir/global -type f`; }
my $bytes = 0;
$bytes += -s for files();

# All of them in the cache, or none; the latter is looked at.
sub cache
{
	my ($warm) = @_;
	if ($warm) { system("cat $dir/base/*/* $dir/global/* >/dev/null") == 0 or die; return; }
	system('sync', '-f', $dir) == 0 or die;
	my @files = files();
	while (my @some = splice(@files, 0, 200)) { system("for f in @some; do dd if=\$f iflag=nocache count=0 status=none; done") == 0 or die; }
	my $cached = 0;
	$cached += $_ for `fincore -b -n -o RES @{[map { glob } "$dir/base/*/*"]}`;
	$cached < $bytes / 100 or die "$cached bytes are still in the cache";
	return;
}

sub clock { my @t = times; return ($t[2] + $t[3], Time::HiRes::time()); }

# Seconds, and processor seconds.
sub run_timed
{
	my (@command) = @_;
	my @begun = clock();
	system(@command) == 0 or die "@command failed";
	my @end = clock();
	return ($end[1] - $begun[1], $end[0] - $begun[0]);
}

my %side = (
	cp => sub {
		my @took = run_timed('sh', '-c', "mkdir $tmp/copy && cp -a $dir/base $dir/global $tmp/copy && sync -f $tmp/copy");
		system('rm', '-rf', "$tmp/copy");
		return @took;
	},
	# what reencrypt does to the old files, too
	'cp, rm' => sub {
		system("mkdir $tmp/old && cp -a $dir/base $dir/global $tmp/old && sync -f $tmp/old") == 0 or die;
		cache($_[0]);
		my @took = run_timed('sh', '-c', "mkdir $tmp/copy && cp -a $dir/base $dir/global $tmp/copy && sync -f $tmp/copy && rm -r $tmp/old");
		system('rm', '-rf', "$tmp/copy");
		return @took;
	},
	reencrypt => sub { return run_timed('sh', '-c', "'$Walcrypt::ctl' reencrypt -D $dir --to new --kek $kek >>$log 2>&1"); });
my $gb = $bytes / 1024**3;
for my $warm (1, 0) {
	say_part('reencrypt of %.2f GB, another relation key, %s', $gb, $warm ? 'files in the cache' : 'no file in the cache');
	my ($m, $cpu) = compare([ 's', 'processor s' ], [ 'cp', 'cp, rm', 'reencrypt' ], sub { cache($warm); return $side{ $_[0] }->($warm); });
	say_line('  rates: cp %.2f GB/s, cp and rm of the old files %.2f, reencrypt %.2f; ratio to cp %.2f (mark: at least 0.6), to cp and rm %.2f', (map { $gb / $m->{$_} } 'cp', 'cp, rm', 'reencrypt'),
		map { $m->{$_} / $m->{reencrypt} } 'cp', 'cp, rm');
	say_line('  processor seconds for a GB: cp %.2f, reencrypt %.2f; floor (two decryptions, an encryption, checksum, CRC32C twice): %.2f', (map { $cpu->{$_} / $gb } qw(cp reencrypt)),
		3 * page_seconds() * 131072 + 3 * crc32c_seconds());
	figure('time, reencrypt/cp', $m->{reencrypt} / $m->{cp}, 1 / 0.6);
}
is((ctl_output('verify', '-D', $dir, '--kek', $kek))[0], 0, 'every page is whole');
done_testing();
