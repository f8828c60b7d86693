# key import and key export: the two files of Cluster File Encryption, made here without our code (RFC 5649 by another library).
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands ();

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/keycfe';
mkdir $tmp, 0700;
kek_file("$tmp/kek");
kek_file("$tmp/kek2");
open(my $f, '>', "$tmp/w.ini") or die;
print $f "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek site]\nuri = file:$tmp/kek\n";
close $f;
chmod 0600, "$tmp/w.ini";
my @conf  = ('--config', "$tmp/w.ini");
my @sysid = qw(--system-identifier 7300000000000000001);

# CFE's files: KWP of the C struct { int klen; unsigned char key[32]; }
sub wrap
{
	my ($path, $key) = @_;
	my $kek = slurp_from("$tmp/kek") =~ s/\s//gr;
	system_or_bail('python3', '-c', 'import sys, struct
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding as wrap
path, kek, key = sys.argv[1], *map(bytes.fromhex, sys.argv[2:])
open(path, "wb").write(wrap(kek, struct.pack("=i", len(key)) + key.ljust(32, b"\0")))', $path, $kek, $key);
	return;
}
sub unwrap
{
	my ($path) = @_;
	my $kek = slurp_from("$tmp/kek") =~ s/\s//gr;
	return `python3 -c 'import sys, struct
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding as unwrap
raw = unwrap(bytes.fromhex(sys.argv[2]), open(sys.argv[1], "rb").read())
print(raw[4:4 + struct.unpack("=i", raw[:4])[0]].hex(), end="")' $path $kek`;
}
sub refused { return Walcrypt::KeyCommands::refused(@_, @conf); }

my ($relation, $wal) = ('0123456789abcdef' x 3, 'fedcba9876543210' x 3);    # AES192
system_or_bail('mkdir', '-p', "$tmp/data/pg_cryptokeys/live");
my $cfe = "$tmp/data/pg_cryptokeys/live";
wrap("$cfe/relation.wkey", $relation);
wrap("$cfe/wal.wkey",      $wal);
is(-s "$cfe/wal.wkey", 48, 'a file of CFE');
is(unwrap("$cfe/wal.wkey"), $wal, '... opens outside');

refused(2, qr/--from is missing/, 'no --from', qw(key import blue), @sysid);
refused(1, qr/there is no wal\.wkey in/, 'nothing there', qw(key import blue --from), $tmp, @sysid);
refused(5, qr/wrong cluster key for the key files/, 'another cluster key', qw(key import blue --from), $cfe, @sysid, '--kek', "file:$tmp/kek2");
refused(2, qr/is not a name for a keyset/, 'no name', qw(key import ../x --from), $cfe, @sysid);
ok(!-e "$tmp/ks/blue", '... nothing is left behind');
like(ctl(qw(key import blue --from), "$tmp/data", @sysid, @conf), qr/^Made keyset "blue", AES192: relation key \w{16}, WAL key \w{16} \(epoch 1\)/, 'key import of a data directory');
like(ctl(qw(key verify blue), @conf), qr/opens it: AES192/, '... makes a keyset');
refused(6, qr/exists already/, '... once', qw(key import blue --from), $cfe, @sysid);
like(ctl(qw(key import green --wal-only --from), "$tmp/data/pg_cryptokeys", @sysid, @conf), qr/The relation key is a fresh one/, '--wal-only');
my ($blue, $green) = map { [ ctl(qw(key show), $_, @conf) =~ /^relation key +(\w+)\nWAL key epoch 1 +(\w+)/m ] } qw(blue green);
is($blue->[1], $green->[1], '... the WAL key is the one of the files');
isnt($blue->[0], $green->[0], '... and the relation key is not');
unlink "$tmp/only.wkey";
mkdir "$tmp/walonly";
wrap("$tmp/walonly/wal.wkey", $wal);
ctl(qw(key import violet --wal-only --from), "$tmp/walonly", @sysid, @conf);
refused(1, qr/relation\.wkey/, 'a WAL key alone, without --wal-only', qw(key import teal --from), "$tmp/walonly", @sysid);
refused(6, qr/is a key directory of walcrypt/, 'our own directory', qw(key import teal --from), "$tmp/ks/blue", @sysid);

# damaged ones
sub damaged
{
	my ($name, $words, $change) = @_;
	system('rm', '-rf', "$tmp/bad");
	system('cp', '-r', $cfe, "$tmp/bad");
	$change->("$tmp/bad");
	refused(3, $words, $name, qw(key import teal --from), "$tmp/bad", @sysid);
	ok(!-e "$tmp/ks/teal", '... nothing is left behind');
	return;
}
damaged('a short file', qr/47 bytes instead of 48/, sub { truncate("$_[0]/wal.wkey", 47) });
damaged('a long file', qr/larger than 48 bytes/, sub { open(my $g, '>>', "$_[0]/wal.wkey"); print $g 'x'; close $g; });
damaged('one that does not open', qr/relation\.wkey" is damaged/, sub { open(my $g, '+<', "$_[0]/relation.wkey"); seek($g, 9, 0); print $g 'abcd'; close $g; });
damaged('keys of two lengths', qr/of two clusters: keys of 32 and 24 bytes/, sub { wrap("$_[0]/relation.wkey", 'ab' x 32) });
damaged('one file twice', qr/the same key twice/, sub { system('cp', "$_[0]/wal.wkey", "$_[0]/relation.wkey") });

# and back: to the byte
ctl(qw(key export blue --to), "$tmp/out", @conf);
is(slurp_from("$tmp/out/$_"), slurp_from("$cfe/$_"), "key export: $_ is the file that came in") for qw(relation.wkey wal.wkey);
is(join(' ', sort map { s{.*/}{}r } glob("$tmp/out/*")), 'relation.wkey wal.wkey', '... and no other');
is((stat("$tmp/out"))[2] & 0777, 0700, '... ours alone');
ctl(qw(key export green --wal-only --to), "$tmp/out2", @conf);
is(join(' ', map { s{.*/}{}r } glob("$tmp/out2/*")), 'wal.wkey', '--wal-only');
is(unwrap("$tmp/out2/wal.wkey"), $wal, '... opens outside');
refused(6, qr/exists already/, 'a folder that is there', qw(key export blue --to), "$tmp/out");
refused(5, qr/wrong cluster key/, 'another cluster key', qw(key export blue --kek), "file:$tmp/kek2", '--to', "$tmp/out3");
refused(2, qr/--to is missing/, 'no --to', qw(key export blue));
ok(!-e "$tmp/out3", '... nothing is left behind');
done_testing();
