# key list and key verify: what the keystore holds, and whether each cluster key opens what it should.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands ();

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/keylist';
mkdir $tmp, 0700;
open(my $f, '>', "$tmp/w.ini") or die;
print $f "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek site]\nuri = file:$tmp/kek\n[kek other]\nuri = file:$tmp/kek2\n"
  . "[node blue]\nkeyset = blue\nkek = site\ndatadir = $tmp/data\n[node green]\nkeyset = green\nkek = other\n";
close $f;
chmod 0600, "$tmp/w.ini";
my @conf = ('--config', "$tmp/w.ini");

sub refused { return Walcrypt::KeyCommands::refused(@_, @conf); }

refused(1, qr/could not open keystore/, 'no keystore yet', qw(key list));
my $uri = "file:$tmp/kek";
kek_file("$tmp/kek");
ctl('initdb', '-D', "$tmp/data", '--kek', $uri, '--', '-A', 'trust', '-N');
my ($sysid) = ctl('key', 'show', '-D', "$tmp/data") =~ /^system identifier +(\d+)/m;
ctl(qw(key init blue --system-identifier), $sysid, @conf);
ctl(qw(key init green --create-kek -K AES128 --system-identifier 7300000000000000002), @conf);
mkdir "$tmp/ks/notes";

my $list = ctl(qw(key list), @conf);
like($list, qr/^keyset +method +system identifier +relation key +epochs +age +cluster key +provider$/m, 'key list: head');
like($list, qr/^blue +AES256 +$sysid +[0-9a-f]{16} +1 +0 days +[0-9a-f]{16} +file:\Q$tmp\E\/kek$/m, '... one keyset');
like($list, qr/^green +AES128 +7300000000000000002 .* file:\Q$tmp\E\/kek2$/m, '... another');
is(scalar(() = $list =~ /\n/g), 3, '... and nothing else');
my $json = decode_json(ctl(qw(key list --json), @conf));
is(join(',', map { $_->{name} } @$json), 'blue,green', '... as JSON');
is($json->[0]{epochs}[0]{age_days}, 0, '... with ages');
is($json->[0]{method}, 'AES256', '... method');
my ($shown) = ctl(qw(key show green), @conf) =~ /^relation key +(\w+)/m;
is($json->[1]{relation_id}, $shown, '... the ids that key show says');

# an older one, by its own record of when it was made: unproven, as all of it
my $text = slurp_from("$tmp/ks/green/live/keyset.json");
(my $older = $text) =~ s/"created": "\d+/"created": "2020/;
sub put { my ($to, $what) = @_; open(my $o, '>', $to) or die; print $o $what; close $o; return; }
put("$tmp/ks/green/live/keyset.json", $older);
like(ctl(qw(key list), @conf), qr/^green .* \d{4,} days /m, 'an old WAL key');
put("$tmp/ks/green/live/keyset.json", $text);

# one that cannot be read does not hide the others
put("$tmp/ks/blue/live/keyset.json", 'nonsense');
my $out = refused(3, qr/^ERROR:  keyset "blue": .*keyset\.json" is damaged/m, 'a damaged keyset', qw(key list));
like($out, qr/^green /m, '... the other is listed');
system('rm', '-rf', "$tmp/ks/blue");
ctl(qw(key init blue --system-identifier), $sysid, @conf);

# key verify: reachable, opens, belongs
like(ctl(qw(key verify blue), @conf), qr/^Cluster key [0-9a-f]{16} from file:\S+ opens it: AES256: relation key/m, 'key verify');
like(ctl('key', 'verify', '--key-dir', "$tmp/ks/blue", '--kek', $uri), qr/opens it/, '... by its path');
rename("$tmp/kek", "$tmp/kek.away");
refused(4, qr/could not open cluster key file.*\nHINT:  If it is lost, put its copy back/, 'unreachable', qw(key verify blue));
rename("$tmp/kek.away", "$tmp/kek");
refused(5, qr/wrong cluster key/, 'the wrong key', qw(key verify blue --kek other));
refused(2, qr/there is no keyset "grey"/, 'no such keyset', qw(key verify grey));
refused(2, qr/name one key directory/, 'none named', qw(key verify));
rename("$tmp/ks/green/live/wal.wkey", "$tmp/wal.wkey");
refused(1, qr/wal\.wkey" is missing/, 'a missing file', qw(key verify green));
system('cp', "$tmp/ks/blue/live/wal.wkey", "$tmp/ks/green/live/wal.wkey");
refused(3, qr/wal\.wkey" is damaged/, 'a foreign file', qw(key verify green));
rename("$tmp/wal.wkey", "$tmp/ks/green/live/wal.wkey");
like(ctl(qw(key verify green), @conf), qr/opens it/, '... put right');

# a data directory: the keystore remembers which keys it must have
refused(3, qr/the keys in "\S+data" are not those of keyset "blue"\nDETAIL:  Its relation key is \w{16}, the keyset's is \w{16}/, 'built under other keys', 'key', 'verify', '-D', "$tmp/data");
system('rm', '-rf', "$tmp/ks/blue");
system('cp', '-rp', "$tmp/data/pg_cryptokeys", "$tmp/ks/blue");
$out = ctl('key', 'verify', '-D', "$tmp/data", @conf);
like($out, qr/relation key is that of keyset "blue".*\nThe keys belong to the cluster with system identifier $sysid/, 'a data directory');
system('rm', '-rf', "$tmp/data/pg_cryptokeys");
system('cp', '-rp', "$tmp/ks/green", "$tmp/data/pg_cryptokeys");
refused(3, qr/system identifier/, 'keys of another cluster', 'key', 'verify', '-D', "$tmp/data", '--kek', "file:$tmp/kek2");
done_testing();
