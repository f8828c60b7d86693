# Helpers for the TAP tests: proxies, encrypted nodes and looking at files from outside.
#
#   my $red  = Walcrypt::Node->new('red');                 a stock server (PostgreSQL::Test::Cluster)
#   $red->init(allows_streaming => 1, extra => ['-k']); $red->start;
#   my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
#   $proxy->key_init('blue'); $proxy->start;
#   my $blue = Walcrypt::Node->new('blue');
#   $blue->init_from_proxy($proxy, 'blue'); $blue->start;   an encrypted standby, under the storage layer
#
# The environment: WALCRYPT_PREFIX (a folder with bin/ and lib/), PG_REGRESS, TESTDIR; scripts/check sets them.
use strict;
use warnings;

package Walcrypt;

use Exporter 'import';
use File::Find;
use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);
use Walcrypt::Node;
use Walcrypt::Proxy;

our @EXPORT = qw(ctl ctl_output in_background files_containing wait_for wait_for_file_line encrypted_wal_files page_epochs readable_pages relation_key kek_file layer_env rss_kib slurp_from use_postgres postgres_major);

our $prefix = $ENV{WALCRYPT_PREFIX} // die "WALCRYPT_PREFIX is not set: run the tests with scripts/check\n";
our $ctl   = "$prefix/bin/walcrypt-ctl";
our $proxy = "$prefix/bin/walcrypt-proxy";
our $layer = "$prefix/lib/walcrypt/libwalcrypt-storage.so";

# Programs are those of this major version: 15 is what the tests run with, the others come from scripts/postgres. Before the first
# program is run: IPC::Run remembers where it found each.
sub use_postgres
{
	my ($major) = @_;
	my $dir = $ENV{WALCRYPT_POSTGRES} // die "WALCRYPT_POSTGRES is not set: run scripts/postgres, then the tests with scripts/staged\n";
	my $bin = "$dir/$major/postgres/pginstall/bin";
	-x "$bin/postgres" or die "there is no PostgreSQL $major in $dir: run scripts/postgres\n";
	$ENV{PATH} = "$bin:$ENV{PATH}";
	return;
}

# any test with another version: TEST_POSTGRES=17 scripts/staged tests/run tests/t/NNN_name.pl
use_postgres($ENV{TEST_POSTGRES}) if ($ENV{TEST_POSTGRES} // 15) != 15;

# The major version that programs are of.
sub postgres_major
{
	return `postgres -V` =~ /\) (\d+)/ ? $1 : die "there is no postgres in PATH\n";
}

# Run walcrypt-ctl; (exit status, stdout, stderr).
sub ctl_output
{
	my @args = @_;
	my ($out, $err) = ('', '');
	print "# walcrypt-ctl @args\n";
	IPC::Run::run([ $ctl, @args ], '<', \undef, '>', \$out, '2>', \$err);
	my $rc = $? & 127 ? 128 + ($? & 127) : $? >> 8;    # a crash is no exit status 0
	print "# walcrypt-ctl: exit $rc" . ($err ne '' ? ": $err" : '') . "\n";
	return ($rc, $out, $err);
}

# Run walcrypt-ctl and die when it fails; stdout.
sub ctl
{
	my ($rc, $out, $err) = ctl_output(@_);
	die "walcrypt-ctl @_ failed with $rc: $err" if $rc != 0;
	return $out;
}

# A program beside the test, what it says appended to a file, or to two: [ stdout, stderr ]; its process.
sub in_background
{
	my ($log, @command) = @_;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid != 0;
	@SIG{qw(INT TERM)} = ('DEFAULT') x 2;
	open(STDIN, '<', '/dev/null');
	open(STDOUT, '>>', ref $log ? $log->[0] : $log);
	open(STDERR, '>>', ref $log ? $log->[1] : $log);
	exec(@command) or POSIX::_exit(127);
}

# A file with a fresh cluster key; its path.
sub kek_file
{
	my ($path) = @_;
	open(my $random, '<', '/dev/urandom') or die;
	read($random, my $bytes, 32) == 32 or die;
	my $umask = umask(077);
	open(my $f, '>', $path) or die "$path: $!";
	print $f unpack('H*', $bytes) . "\n";
	close $f;
	umask($umask);
	return $path;
}

# The environment under which a stock program runs on an encrypted directory.
sub layer_env
{
	my ($kek, $datadir) = @_;
	my %env = (LD_PRELOAD => $layer, WALCRYPT_KEK => $kek);
	$env{WALCRYPT_DATADIR} = $datadir if defined $datadir;
	return %env;
}

# How many files below the directories hold the bytes; the list in list context. Symbolic links (tablespaces, pg_wal) are followed.
sub files_containing
{
	my ($marker, @dirs) = @_;
	my @found;
	find({
		follow_fast => 1, follow_skip => 2, no_chdir => 1,
		wanted => sub {
			return unless -f $_;
			open(my $f, '<:raw', $_) or return;
			my ($tail, $buf) = ('', '');
			while (read($f, $buf, 1 << 20)) {
				if (index($tail . $buf, $marker) >= 0) { push @found, $File::Find::name; last; }
				$tail = substr($buf, -length($marker));
			}
			close $f;
		} }, grep { -e } @dirs);
	return wantarray ? @found : scalar @found;
}

# Wait until the code is true; returns its value, dies with the text after a time that only a fault reaches.
sub wait_for
{
	my ($what, $code, $seconds) = @_;
	my $end = time() + ($seconds // $PostgreSQL::Test::Utils::timeout_default // 180);
	while (1) {
		my $value = $code->();
		return $value if $value;
		die "timed out waiting for $what\n" if time() > $end;
		sleep(0.05);
	}
}

sub slurp_from
{
	my ($file, $offset) = @_;
	open(my $f, '<:raw', $file) or return '';
	seek($f, $offset // 0, 0);
	local $/;
	my $text = <$f> // '';
	close $f;
	return $text;
}

sub wait_for_file_line
{
	my ($file, $regex, $offset) = @_;
	wait_for("$regex in $file", sub { slurp_from($file, $offset) =~ $regex });
	return -s $file;
}

# Segments of a pg_wal (or archive) directory: name => 'encrypted', 'clear', 'mixed' or 'empty', read without our code.
sub encrypted_wal_files
{
	my ($dir) = @_;
	my %what;
	for my $path (glob("$dir/*")) {
		my ($name) = $path =~ m{/([0-9A-F]{24}(?:\.partial)?)$} or next;
		open(my $f, '<:raw', $path) or next;
		my %seen;
		while (read($f, my $page, 8192)) {
			last if length($page) < 24;
			my ($magic, $info) = unpack('S<S<', $page);
			next if ($magic >> 8) != 0xD1;
			$seen{ $info & 0x8000 ? 'encrypted' : 'clear' }++;
		}
		close $f;
		$what{$name} = keys %seen == 0 ? 'empty' : keys %seen == 2 ? 'mixed' : (keys %seen)[0];
	}
	return %what;
}

# The WAL key epochs of the pages of each timeline in a pg_wal directory: timeline => '1', '1,2', 'clear', read without our code.
sub page_epochs
{
	my ($dir) = @_;
	my %seen;
	for my $path (sort grep { m{/[0-9A-F]{24}$} } glob("$dir/*")) {
		open(my $f, '<:raw', $path) or $!{ENOENT} ? next : die "$path: $!";    # a running server may have recycled it
		my ($in_name) = $path =~ m{/([0-9A-F]{8})[0-9A-F]{16}$};
		while (read($f, my $page, 8192) == 8192) {
			my ($magic, $info, $tli) = unpack('S<S<L<', $page);
			next if ($magic >> 8) != 0xD1 || hex($in_name) != $tli;
			$seen{$tli}{ $info & 0x8000 ? ($info >> 8) & 127 : 'clear' }++;
		}
		close $f;
	}
	return { map { $_ => join(',', sort keys %{ $seen{$_} }) } keys %seen };
}

# How many pages of a data directory's relation files these keys open, and how many there are; by the independent decoder.
sub readable_pages
{
	my ($key_dir, $kek_file, $dir) = @_;
	my ($out, $err) = run_command([ 'python3', '-B', 'tests/decoder/decoder.py', 'readable', '--key-dir', $key_dir, '--kek-file', $kek_file, $dir ]);
	die "decoder.py: $err\n" if $err ne '' || $out !~ /^\d+ \d+$/;
	return split(/ /, $out);
}

# The relation key of a key directory, as walcrypt-ctl tells it: its identifier.
sub relation_key
{
	my ($dir) = @_;
	return (ctl('key', 'show', '--key-dir', $dir) =~ /^relation key +(\w+)/m)[0];
}

sub rss_kib
{
	my ($pid) = @_;
	my ($kib) = slurp_from("/proc/$pid/status") =~ /^VmRSS:\s+(\d+)/m;
	return $kib;
}

1;
