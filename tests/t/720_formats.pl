# Goal: what every release has left on disk is opened by this one (tests/vectors/formats), and what a later one leaves is refused by its
# format's number, with a word on what to do, and unchanged.
use strict;
use warnings;
use Cwd ();
use Digest::SHA qw(sha256 sha256_hex);
use IO::Uncompress::Gunzip qw(gunzip);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

# A release's files in a folder of our own, as they lay there; a configuration for them.
sub unpacked
{
	my ($release) = @_;
	my $dir = Cwd::realpath(PostgreSQL::Test::Utils::tempdir());
	system('cp', '-r', '--no-preserve=mode', "$release/.", $dir) == 0 or die;
	for my $file (glob("$dir/keystore/*.gz $dir/wal/*.gz")) {
		gunzip($file => $file =~ s/\.gz$//r) or die $file;
		unlink $file;
	}
	append_to_file("$dir/walcrypt.ini", <<E);
[walcrypt]
listen_port = 0
unix_socket_dir = .
auth_type = trust
keystore = keystore
[kek site]
uri = file:kek
[kek words]
uri = passphrase:$dir/passphrase
[node blue]
conninfo = host=/nonexistent
keyset = blue
kek = site
[node green]
keyset = green
kek = words
E
	system('chmod', '-R', 'go-rwx', $dir) == 0 or die;
	return $dir;
}

# Start the proxy on it and stop it at once; what it logs.
sub proxy_log
{
	my ($dir) = @_;
	my $log = "$dir/log";
	my $pid = fork() // die;
	if ($pid == 0) {
		open(STDERR, '>', $log);
		exec($Walcrypt::proxy, '-c', "$dir/walcrypt.ini") or POSIX::_exit(127);
	}
	my $ended = wait_for('the proxy', sub { waitpid($pid, POSIX::WNOHANG()) == $pid ? 'ended' : slurp_from($log) =~ /: no TCP/ ? 'up' : undef });
	if ($ended eq 'up') { kill('TERM', $pid); waitpid($pid, 0); }
	return slurp_from($log) . "exit $?\n";
}

my @releases = grep { -d } glob('tests/vectors/formats/*');
cmp_ok(scalar @releases, '>=', 1, 'there are releases');
my $rows;
for my $release (@releases) {
	my ($name) = $release =~ m{([^/]+)$};
	my $dir = unpacked($release);
	my @conf = ('--config', "$dir/walcrypt.ini");
	for my $keyset (qw(blue green)) {
		is((ctl_output('key', 'verify', $keyset, @conf))[0], 0, "$name: keyset $keyset");
	}
	like(ctl('key', 'show', 'blue', @conf), qr/^.*epoch.*\b2\b/mi, 'with its epochs');
	my ($rc, $out) = ctl_output('wal', glob("$dir/wal/*"), '--decrypt', "$dir/clear", '--keyset', 'blue', @conf);
	is($rc, 0, "$name: WAL");
	like(slurp_from("$dir/clear"), qr/a row of the formats/, 'is readable');
	unlike(slurp_from((glob("$dir/wal/*"))[0]), qr/a row of the formats/, 'and was not');
	is((ctl_output('key', 'audit', @conf))[0], 0, "$name: audit log");
	like(proxy_log($dir), qr/: no TCP.*stopped\nexit 0\n$/s, "$name: the proxy starts on its keystore, ledger and timelines");
	is((ctl_output('key', 'audit', @conf))[0], 0, 'and goes on with its audit log');
	mkdir "$dir/restored", 0700;
	($rc) = ctl_output('key', 'restore', "$dir/backup", '--keystore', "$dir/restored", '--kek', "file:$dir/kek", '--passphrase-file', "$dir/passphrase");
	is($rc, 0, "$name: a backup of keys is restored");
	is((ctl_output('key', 'verify', '--key-dir', "$dir/restored/blue", '--kek', "file:$dir/kek"))[0], 0, 'and they open');
}

# what a later release would leave: the file, what is changed in it, who comes upon it
my $latest = $releases[-1];
my $hint = qr/HINT: +A later version of walcrypt wrote it: use that one/;
sub later
{
	my ($what, $file, $change, $format, @command) = @_;
	my $dir = unpacked($latest);
	my $path = "$dir/$file";
	my $data = $change->(-e $path ? slurp_file($path) : '');
	if ($file =~ /^data/) {
		mkdir $_, 0700 for "$dir/data", "$dir/data/pg_reencrypt";
		append_to_file("$dir/data/PG_VERSION", "15\n");
	}
	open(my $f, '>:raw', $path) or die "$path: $!";
	print $f $data;
	close $f;
	chmod 0600, $path;
	my ($rc, undef, $err) = ctl_output(map { s/DIR/$dir/r } @command);
	is($rc, 6, "$what of a later release is refused");
	like($err, qr/^ERROR:  "\Q$path\E" has format $format; this version of walcrypt knows formats up to \d+\n$hint/, 'by its number');
	is(sha256_hex(slurp_file($path)), sha256_hex($data), 'and stays as it was');
	return $dir;
}
my $next = sub { my ($text) = @_; $text =~ s/"format": (\d+)/'"format": ' . ($1 + 1)/e or die "no format in it\n"; return $text };
my $dir = later('a keyset', 'keystore/blue/live/keyset.json', $next, 2, qw(key verify blue --config DIR/walcrypt.ini));
my $log = proxy_log($dir);
like($log, qr/FATAL:  keyset "blue": "[^"]*keyset\.json" has format 2; .*\n.*$hint.*\nexit 1536\n$/, 'by the proxy too');
later('a backup of keys', 'backup', sub {
	my ($data) = @_;
	substr($data, 4, 4) = pack('V', unpack('V', substr($data, 4, 4)) + 1);
	return substr($data, 0, -32) . sha256(substr($data, 0, -32));
}, 2, qw(key restore DIR/backup --list --passphrase-file DIR/passphrase));
later('a switchover', 'keystore/switchover.json', sub { '{"format": 2, "more": true}' }, 2, qw(switchover --resume --config DIR/walcrypt.ini));
later('a re-encryption', 'data/pg_reencrypt/record', sub { '{"format": 2, "more": true}' }, 2, qw(reencrypt -D DIR/data --resume --config DIR/walcrypt.ini));

# the ledger, which only the proxy opens
$dir = unpacked($latest);
my $ledger = slurp_file("$dir/keystore/ledger");
my $format = ++substr($ledger, 7, 1);
open(my $f, '>:raw', "$dir/keystore/ledger") or die;
print $f $ledger;
close $f;
$log = proxy_log($dir);
like($log, qr/FATAL:  "\Q$dir\E\/keystore\/ledger" has format $format; this version of walcrypt knows formats up to \d\n.*$hint.* Or move the file away.*\nexit 1536\n$/, 'a ledger of a later release is refused');
ok(slurp_file("$dir/keystore/ledger") eq $ledger, 'and stays as it was');

# a wrapped cluster key under a passphrase: kek.wrapped stands under the keyset's MAC, so that what is told of is the version, not damage
$dir = unpacked($latest);
my $wrapped = slurp_file("$dir/keystore/green/live/kek.wrapped");
substr($wrapped, 4, 4) = pack('V', unpack('V', substr($wrapped, 4, 4)) + 1);
open($f, '>:raw', "$dir/keystore/green/live/kek.wrapped") or die;
print $f substr($wrapped, 0, -32) . sha256(substr($wrapped, 0, -32));
close $f;
my ($rc, $out, $err) = ctl_output('key', 'verify', 'green', '--config', "$dir/walcrypt.ini");
is($rc, 6, 'a cluster key that a later release has wrapped is refused');
like($err, qr/the wrapped cluster key has format 2; .*\n$hint/, 'by its number');

# the audit log's records may have more in them one day: the chain is what counts
$dir = unpacked($latest);
my @lines = split /^/, slurp_file("$dir/keystore/audit.log");
append_to_file("$dir/keystore/audit.log", sprintf(qq({"record":%d,"time":"2027-01-01T00:00:00Z","action":"key something","state":"begun","more":{"x":1},"before":"%s"}\n), @lines + 1, sha256_hex($lines[-1] =~ s/\n//r)));
is((ctl_output('key', 'audit', '--config', "$dir/walcrypt.ini"))[0], 0, 'an audit log with records that know more');
done_testing();
