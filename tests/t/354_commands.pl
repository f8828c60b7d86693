# The sample key commands, each with the real thing where it can be had: a terminal, OpenBao, a SoftHSM in the place of a card. The aws
# program is played by a script that keeps secrets in a folder: there is no Secrets Manager to be had here.
use strict;
use warnings;
use Cwd ();
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;
use Walcrypt::Terminal;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/commands';
mkdir $_, 0700 for $tmp, "$tmp/bin", "$tmp/aws", "$tmp/tokens";
my $samples = Cwd::getcwd() . '/conf/commands';
my $n       = 0;

sub conf
{
	my ($command) = @_;
	my $file = "$tmp/c" . ++$n . '.ini';
	return put($file, "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks$n\n[kek site]\nuri = command:$command\n[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n"
		  . "[node blue]\nkeyset = blue\nkek = site\n");
}

my @init = (qw(key init blue --system-identifier 7000000000000000001 --config));

# walcrypt-ctl on a terminal, somebody typing
sub typed
{
	my ($typed, @args) = @_;
	my (undef, $seen, $out, $err) = on_terminal([ [ qr/: $/, "$typed\n" ] ], @args);
	return "$seen\n$out$err";
}

# the terminal: key and passphrase
open(my $random, '<:raw', '/dev/urandom') or die;
sysread($random, my $bytes, 32);
my $key = unpack('H*', $bytes);
kek_file("$tmp/kek");
put("$tmp/kek", "$key\n");
my $direct = conf(qq($samples/direct.sh %R "%p"));
ctl(@init, $direct, '--kek', "file:$tmp/kek");
my $out = typed($key, qw(key verify blue --config), $direct);
like($out, qr/Enter authentication needed to generate the cluster key: /, 'direct: asks with the prompt');
like($out, qr/opens it/, '... and takes the key');
like(typed('abc', qw(key verify blue --config), $direct), qr/exit status 1\r?\n.*|not 64 digits/, '... nothing shorter');
my $passphrase = conf(qq($samples/passphrase.sh %R "%p"));
my ($sum) = `printf 'some words\\n' | sha256sum` =~ /^(\w+)/;
put("$tmp/kek2", "$sum\n");
ctl(@init, $passphrase, '--kek', "file:$tmp/kek2");
like(typed('some words', qw(key verify blue --config), $passphrase), qr/opens it/, 'passphrase: the SHA-256 of the line');
like(typed('other words', qw(key verify blue --config), $passphrase), qr/wrong cluster key/, '... and of another one it is another');

# AWS, played
put("$tmp/bin/aws", <<"S", 0755);
#!/bin/sh
echo "\$*" >>$tmp/aws.log
case "\$2" in
create-secret) [ "\$5" = --secret-string ] && [ "\$6" = file:///dev/stdin ] && cat >"$tmp/aws/\$4" ;;
get-secret-value) cat "$tmp/aws/\$4" && echo ;;
*) exit 2 ;;
esac
S
{
	local $ENV{PATH} = "$tmp/bin:$ENV{PATH}";
	my $aws = conf(qq($samples/aws.sh "%d"));
	ctl(@init, $aws);
	my ($secret) = glob("$tmp/aws/*");
	like($secret, qr/walcrypt-cluster-key-[0-9a-f]{20}$/, 'aws: a secret is made');
	is(slurp_file("$tmp/ks$n/blue/live/aws-secret.id"), ($secret =~ s{.*/}{}r) . "\n", '... its name kept beside the keys');
	like(ctl(qw(key verify blue --config), $aws), qr/opens it/, '... and found again');
	ctl(qw(key alter blue --config), $aws, '--new-kek', qq(command:$samples/aws.sh "%d"));
	is(scalar(() = glob("$tmp/aws/*")), 2, 'key alter makes another');
	unlike(slurp_file("$tmp/aws.log"), qr/[0-9a-f]{64}/, 'no key in an argument');
	rename("$tmp/ks$n/blue/live/aws-secret.id", "$tmp/id");
	my ($rc, undef, $err) = ctl_output(qw(key verify blue --config), $aws);
	is($rc, 4, 'without its name');
	like($err, qr/exit status 1\nDETAIL:  It said: .*is missing, but there are keys/, '... it says so, and makes no new one');
}

# a card: SoftHSM with an RSA key
{
	my ($module) = grep { -e } '/usr/lib/softhsm/libsofthsm2.so', glob('/usr/lib/*/softhsm/libsofthsm2.so');
	local $ENV{SOFTHSM2_CONF} = put("$tmp/softhsm2.conf", "directories.tokendir = $tmp/tokens\nobjectstore.backend = file\nlog.level = ERROR\n");
	local $ENV{PIV_MODULE}   = $module;
	local $ENV{PIV_PIN_FILE} = put("$tmp/pin", "471111\n");
	system_or_bail('softhsm2-util', '--init-token', '--free', '--label', 'card', '--pin', '471111', '--so-pin', '815815');
	system_or_bail('pkcs11-tool', '--module', $module, '--token-label', 'card', '--login', '--pin', '471111', '--keypairgen', '--key-type', 'rsa:2048', '--id', '03', '--label', 'piv');
	my $piv = conf(qq($samples/piv.sh "%d"));
	ctl(@init, $piv);
	is(-s "$tmp/ks$n/blue/live/pivpass.key", 256, 'piv: the key is kept encrypted to the card');
	like(ctl(qw(key verify blue --config), $piv), qr/opens it/, '... which opens it');
	my $asking = conf(qq($samples/piv.sh "%d" %R "%p"));
	system_or_bail('cp', '-r', "$tmp/ks" . ($n - 1), "$tmp/ks$n");
	like(typed('471111', qw(key verify blue --config), $asking), qr/opens it/, '... with a typed PIN, too');
	put("$tmp/pin", "000000\n");
	is((ctl_output(qw(key verify blue --config), $piv))[0], 4, '... but not with a wrong one');
}

# OpenBao by curl and jq
{
	my $vault = Walcrypt::Vault->new(name => 'commands');
	$vault->cli('kv', 'put', 'secret/walcrypt', "key=$key");
	my $command = "$samples/vault-curl.sh http://" . $vault->host_port . ' ' . $vault->token_file;
	my $curl = conf("$command secret/data/walcrypt");
	ctl(@init, $curl);
	like(ctl(qw(key verify blue --config), $curl), qr/opens it/, 'vault-curl: encryptionkey= from OpenBao');
	my ($rc, undef, $err) = ctl_output(@init, conf("$command secret/data/none"));
	is($rc, 4, '... a secret that is not there');
	like($err, qr/exit status \d+\nDETAIL:  It said: curl: .*404/, '... is said');
}
done_testing();
