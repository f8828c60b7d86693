# walcrypt-ctl initdb and exec on real clusters: every method, copied keys, options of initdb, and what is refused.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/initdb';
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
my @initdb = ('--', '-A', 'trust', '-N');

# every method runs a server
my %id;
for my $method (qw(AES128 AES192 AES256)) {
	my $node = Walcrypt::Node->new(lc $method);
	$node->init_encrypted($kek, ctl_options => [ '-K', lc $method ]);
	my $dir = $node->data_dir;
	like(ctl('key', 'show', '-D', $dir), qr/^method +$method$/m, "$method: recorded");
	$node->start;
	$node->safe_psql('postgres', "CREATE TABLE t AS SELECT i, 'marker-$method-1a2b' || i AS t FROM generate_series(1, 1000) i; CHECKPOINT");
	is($node->safe_psql('postgres', 'SHOW data_checksums'), 'on', "$method: data checksums are on");
	like($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), qr{/libwalcrypt-storage\.so$}, "$method: the guard is in");
	is(scalar files_containing("marker-$method-1a2b", $dir), 0, "$method: the marker is nowhere");
	$node->restart;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), '1000', "$method: restarts");
	$node->stop;
	my ($rc, $out) = ctl_output('verify', '-D', $dir, '--kek', $kek);
	is($rc, 0, "$method: verify is clean");
	($id{$method}) = ctl('key', 'show', '-D', $dir) =~ /^relation key +(\w+)$/m;
}
isnt($id{AES128}, $id{AES256}, 'each cluster has keys of its own');

# what initdb leaves, and what it refuses
my $dir = "$tmp/one";
my $out = ctl('initdb', '-D', $dir, '--kek', $kek, @initdb);
like($out, qr/The cluster is encrypted, AES256: .*walcrypt-ctl exec -D \Q$dir\E --kek \Q$kek\E -- pg_ctl -l \Q$dir\E\.log start/s, 'initdb says how to start');
is(join(' ', glob("$dir.*")), '', 'no staged keys are left behind');
my ($rc, undef, $err) = ctl_output('initdb', '-D', $dir, '--kek', $kek, @initdb);
is($rc, 6, 'a directory that is not empty is refused');
like($err, qr/exists but is not empty/, '... and said');
sub fails
{
	my ($status, $words, $name, @args) = @_;
	my ($rc, undef, $err) = ctl_output('initdb', '-D', "$tmp/new", @args);
	is($rc, $status, "$name: exit status");
	like($err, $words, "$name: message");
	ok(!-e "$tmp/new" && !glob("$tmp/new.*"), "$name: nothing is left behind");
}
fails(2, qr/no cluster key is named/, 'no key', @initdb);
fails(4, qr/could not open cluster key file/, 'a missing key', '--kek', "file:$tmp/none", @initdb);
fails(2, qr/is not AES128/, 'an unknown method', '--kek', $kek, '-K', 'DES', @initdb);
fails(2, qr/named before the "--"/, 'another data directory', '--kek', $kek, '--', '-D', "$tmp/elsewhere");
fails(6, qr/needs --allow-no-checksums/, 'no checksums', '--kek', $kek, '--', '--no-data-checksums');
fails(1, qr/initdb failed with exit status/, 'initdb fails', '--kek', $kek, '--', '--locale=nonsense');

# the keys of another cluster
$out = ctl('initdb', '-D', "$tmp/two", '--kek', $kek, '--copy-encryption-keys', $dir, @initdb);
my $one = ctl('key', 'show', '-D', $dir);
my $two = ctl('key', 'show', '-D', "$tmp/two");
is(($two =~ /^relation key +(\w+)/m)[0], ($one =~ /^relation key +(\w+)/m)[0], '--copy-encryption-keys: the same relation key');
is(($two =~ /epoch 1 +(\w+)/)[0], ($one =~ /epoch 1 +(\w+)/)[0], '... the same WAL key');
isnt(($two =~ /^system identifier +(\d+)/m)[0], ($one =~ /^system identifier +(\d+)/m)[0], '... bound to the new cluster');
fails(5, qr/wrong cluster key/, 'copied keys under another cluster key', '--kek', 'file:' . kek_file("$tmp/kek2"), '--copy-encryption-keys', $dir, @initdb);
fails(6, qr/are for method AES256, not AES128/, 'copied keys of another method', '--kek', $kek, '-K', 'AES128', '--copy-encryption-keys', $dir, @initdb);

# a data directory with another cluster's keys
system('mv', "$tmp/two/pg_cryptokeys", "$tmp/two.keys");
system('cp', '-rp', "$dir/pg_cryptokeys", "$tmp/two/pg_cryptokeys");
($rc, undef, $err) = ctl_output('verify', '-D', "$tmp/two", '--kek', $kek);
is($rc, 6, 'keys of another cluster are refused');
like($err, qr/belong to another cluster/, '... and said');
system('rm', '-rf', "$tmp/two/pg_cryptokeys");
system('mv', "$tmp/two.keys", "$tmp/two/pg_cryptokeys");

# without data checksums
ctl('initdb', '-D', "$tmp/nosums", '--kek', $kek, '--allow-no-checksums', @initdb, postgres_major() >= 18 ? ('--no-data-checksums') : ());
($rc, $out) = ctl_output('verify', '-D', "$tmp/nosums", '--kek', $kek);
is($rc, 0, 'without data checksums verify looks at page headers');
like($out, qr/data checksums off/, '... and says so');

# exec
sub exec_ctl
{
	my @args = @_;
	my ($o, $e) = ('', '');
	IPC::Run::run([ $Walcrypt::ctl, 'exec', @args ], '<', \undef, '>', \$o, '2>', \$e);
	return ($? >> 8, $o, $e);
}
($rc, $out) = exec_ctl('-D', $dir, '--kek', $kek, '--', 'sh', '-c', 'env; exit 42');
is($rc, 42, 'exec passes the exit status on');
like($out, qr/^PGDATA=\Q$dir\E$/m, '... and the data directory');
like($out, qr{^LD_PRELOAD=.*/libwalcrypt-storage\.so$}m, '... and the layer');
like($out, qr/^WALCRYPT_KEK=\Q$kek\E$/m, '... and where the key comes from');
unlike($out, qr/[0-9a-f]{64}/, '... but no key');
($rc, $out) = exec_ctl('-D', $dir, '--kek', $kek, 'pg_controldata');
like($out, qr/^Database system identifier:/m, 'a program finds the directory by PGDATA, and is found without a "--"');
($rc, undef, $err) = exec_ctl('-D', $dir, '--kek', $kek, 'nosuchprogram');
is($rc, 125, 'a program that is not there');
like($err, qr/could not find the program "nosuchprogram"/, '... is said');
($rc, undef, $err) = exec_ctl('-D', $tmp, '--kek', $kek, 'true');
is($rc, 125, 'a folder that is no data directory');
like($err, qr/is not a data directory/, '... is said');
rename("$dir/PG_VERSION", "$tmp/PG_VERSION") or die;
($rc, undef, $err) = exec_ctl('-D', $dir, '--kek', $kek, 'pg_ctl', 'start');
is($rc, 1, 'a directory with keys that lacks something else');
like($err, qr{pg_ctl: directory "\Q$dir\E" is not a database cluster directory}, '... is for the program to judge');
rename("$tmp/PG_VERSION", "$dir/PG_VERSION") or die;
($rc, $out) = exec_ctl('-D', $dir, '--kek', $kek, '--', 'pg_checksums', '-c');
is($rc, 0, 'stock pg_checksums works');
like($out, qr/Bad checksums:  0/, '... and finds nothing');
my ($segment) = map { m{([^/]+)$} } glob("$dir/pg_wal/0*");
my ($rc2, $dump) = exec_ctl('-D', $dir, '--kek', $kek, '--', 'pg_waldump', '-p', "$dir/pg_wal", $segment);
like($dump, qr/CHECKPOINT_SHUTDOWN/, 'stock pg_waldump reads the WAL');

# a key in an option gets no further
($rc, $out, $err) = exec_ctl('-D', $dir, '--kek', 'command:echo ' . 'a1' x 32, '--', 'env');
is($rc, 125, 'a key in an option');
like($err, qr/holds 64 hexadecimal digits/, '... is refused');
is($out, '', '... before the program runs');

# a key command that asks on the terminal, through pg_ctl's setsid
my $asking = 'command:stty -echo <&%R; printf "%p" >&%R; read -r key <&%R; stty echo <&%R; printf "%%s\n" "$key"';
my $key = slurp_file("$tmp/kek");
chomp $key;
open(my $script, '>', "$tmp/terminal.py") or die;
print $script <<'P';
import os, pty, select, sys
key, argv, seen = sys.argv[1], sys.argv[2:], b""
pid, fd = pty.fork()
if pid == 0:
    os.execv(argv[0], argv)
asked = 0
while True:
    if not select.select([fd], [], [], 60)[0]:
        break
    try:
        data = os.read(fd, 4096)
    except OSError:
        break
    if not data:
        break
    seen += data
    if seen.count(b"Enter authentication") > asked:
        asked += 1
        os.write(fd, (open(key).read().strip() + "\n").encode())
os.write(1, seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
P
close $script;
open(my $more, '>>', "$dir/postgresql.conf") or die;
print $more "port = " . PostgreSQL::Test::Cluster::get_free_port() . "\nunix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\n";
close $more;
my ($tty, $tty_err) = ('', '');
IPC::Run::run([ 'python3', "$tmp/terminal.py", "$tmp/kek", $Walcrypt::ctl, 'exec', '-D', $dir, '--kek', $asking, '--', 'pg_ctl', '-w', '-l', "$tmp/tty.log", 'start' ],
	'<', \undef, '>', \$tty, '2>', \$tty_err);
is($? >> 8, 0, 'a server whose key is typed on the terminal starts') or diag($tty . $tty_err . slurp_file("$tmp/tty.log"));
like($tty, qr/Enter authentication needed to generate the cluster key/, '... after asking');
unlike($tty, qr/\Q$key\E/, '... without an echo');
system_or_bail('pg_ctl', '-D', $dir, '-w', '-m', 'fast', 'stop');

# a plain directory
my $plain = Walcrypt::Node->new('plain');
$plain->init;
($rc, undef, $err) = exec_ctl('-D', $plain->data_dir, '--kek', $kek, 'pg_ctl', 'status');
is($rc, 125, 'exec on an unencrypted directory');
like($err, qr/is not encrypted/, '... is refused');

# the key by a [kek] section: found by the data directory, by name, and alone
open(my $f, '>', "$tmp/w.ini") or die;
print $f "[kek a]\nuri = file:$tmp/kek2\n[kek b]\nuri = $kek\n[node one]\nkeyset = one\nkek = b\ndatadir = $dir\n";
close $f;
chmod(0600, "$tmp/w.ini");
($rc, $out) = exec_ctl('-D', $dir, '--config', "$tmp/w.ini", '--', 'env');
like($out, qr/^WALCRYPT_KEK=b$/m, 'the configuration knows the key of a data directory');
like($out, qr{^WALCRYPT_CONFIG=\Q$tmp\E/w\.ini$}m, '... and is passed on');
($rc, $out) = exec_ctl('-D', $dir, '--config', "$tmp/w.ini", '--', 'pg_checksums', '-c');
is($rc, 0, '... and the layer unlocks by it') or diag($out);
($rc) = ctl_output('verify', '-D', "$tmp/two", '--config', "$tmp/w.ini", '--kek', 'b');
is($rc, 0, 'the key by the name of a section');
($rc, undef, $err) = ctl_output('verify', '-D', "$tmp/two", '--config', "$tmp/w.ini");
is($rc, 2, 'an ambiguous configuration');
like($err, qr/does not say which cluster key is meant/, '... is refused');
done_testing();
