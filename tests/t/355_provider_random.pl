# Random bytes of the provider in the keys that are made: asked for when the option or the configuration says so and else not, of a
# keeper, a real OpenBao and a real SoftHSM; and what is said where there are none.
use strict;
use warnings;
use Cwd ();
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/random355';
mkdir $_, 0700 for $tmp, "$tmp/tokens";
my $n = 0;


# A keystore of its own for each
sub conf
{
	my ($uri, @more) = @_;
	return put("$tmp/c" . ++$n . '.ini', join("\n", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks$n\n[kek site]\nuri = $uri", @more,
			"[node blue]\nkeyset = blue\nkek = site\n[node green]\nkeyset = green\nkek = site\n"));
}

sub init
{
	my ($conf, @more) = @_;
	return ctl_output(qw(key init blue --create-kek --system-identifier 7000000000000000001 --config), $conf, @more);
}

sub denied
{
	my ($status, $words, $name, $conf, @more) = @_;
	refused($status, $words, $name, qw(key init blue --create-kek --system-identifier 7000000000000000001 --config), $conf, @more);
	(my $ini = slurp_file($conf)) =~ /^keystore = (.*)$/m;
	ok(!-e "$1/blue", "$name: nothing is made");
	return;
}

# a keeper: what it is asked stands in a file
my $sample  = 'perl ' . Cwd::getcwd() . '/conf/external/keeper.pl';
my $keeper  = "external:main:tee -a $tmp/asked | exec $sample $tmp/keys";
my $asked = sub { my $got = -e "$tmp/asked" ? slurp_file("$tmp/asked") : ''; unlink "$tmp/asked"; return join(' ', $got =~ /^(\w+)/mg); };
my $conf = conf($keeper);
is((init($conf))[0], 0, 'without the option');
is($asked->(), 'init get create get', '... the keeper is not asked for random bytes');
is((ctl_output(qw(key init green --system-identifier 7000000000000000001 --provider-random --config), $conf))[0], 0, 'key init --provider-random');
is($asked->(), 'init random get get', '... asks for them before the keys are made');
is((ctl_output(qw(key new-epoch blue --timeline 1 --provider-random --config), $conf))[0], 0, 'key new-epoch --provider-random');
is($asked->() =~ /random/g, 1, '... once');
is((ctl_output(qw(key alter blue --provider-random --create-kek --new-kek), $keeper =~ s/:main:/:other:/r, '--config', $conf))[0], 0, 'key alter --provider-random');
is($asked->(), 'init get random get create get', '... for the new cluster key');
my $on = conf($keeper, 'provider_random = on');
is((init($on))[0], 0, 'provider_random = on');
is($asked->(), 'init random get', '... asks for them');
is((ctl_output(qw(key verify blue --config), $on))[0], 0, 'key verify');
is($asked->(), 'init get', '... makes no key and does not');
is((ctl_output(qw(initdb --provider-random -D), "$tmp/data", '--kek', $keeper))[0], 0, 'initdb --provider-random');
like($asked->(), qr/^init random get/, '... asks for them');

# none, too few, no digits, a refusal
kek_file("$tmp/kek");
denied(6, qr/key provider "file:" gives no random bytes\nHINT:  Switch provider_random off/, 'a file', conf("file:$tmp/kek"), '--provider-random');
denied(6, qr/key provider "kmip:" gives no random bytes/, 'KMIP', conf('kmip://localhost/x?cert_file=/none'), '--provider-random');
for my $t ([ 'error unsupported', 6, qr/random bytes of the key provider: the key keeper has none/ ], [ 'ok abcd', 1, qr/the key keeper did not answer with 32 bytes/ ],
	[ 'ok ' . 'zz' x 32, 1, qr/the key keeper did not answer with 32 bytes/ ], [ 'error unavailable the generator heats', 4, qr/random bytes of the key provider: the key keeper cannot reach its keys\nDETAIL:  It said: the generator heats/ ]) {
	denied($t->[1], $t->[2], "a keeper that says $t->[0]", conf("external:x:read -r q; echo ok 1; read -r q; echo $t->[0]"), '--provider-random');
}

# OpenBao, KV and transit: the rights that the documentation names, and without them
my $bao = Walcrypt::Vault->new(name => 'random');
$bao->enable('transit', 'secrets', 'transit');
my %rights = (
	'vault-kv'      => [ 'secret/walcrypt', qq(path "secret/data/walcrypt" { capabilities = ["create", "read"] }\n), qq(path "sys/tools/random/32" { capabilities = ["update"] }\n) ],
	'vault-transit' => [ 'transit/walcrypt', join('', map { qq(path "transit/$_/walcrypt" { capabilities = ["create", "read", "update"] }\n) } qw(encrypt decrypt keys)), qq(path "transit/random/32" { capabilities = ["update"] }\n) ]);
for my $scheme (sort keys %rights) {
	my ($path, $keys, $random) = @{ $rights{$scheme} };
	my $without = $bao->put_token($bao->token_for("$scheme-0", $keys), "$tmp/$scheme-0");
	my $with    = $bao->put_token($bao->token_for("$scheme-1", $keys . $random), "$tmp/$scheme-1");
	denied(4, qr/random bytes of the key provider: "127\.0\.0\.1:\d+" denies the token access/, "$scheme: without the right", conf($bao->uri($scheme, $path, token_file => $without)), '--provider-random');
	my ($rc, $out, $err) = init(conf($bao->uri($scheme, $path, token_file => $with)), '--provider-random');
	is($rc, 0, "$scheme: with it") or diag $err;
	is((init(conf($bao->uri($scheme, $path, token_file => $without))))[0], 0, "$scheme: without the option it needs none");
}
denied(1, qr/"127\.0\.0\.1:\d+" gives no random bytes: "gone\/walcrypt"/, 'no transit engine', conf($bao->uri('vault-transit', 'gone/walcrypt')), '--provider-random');

# SoftHSM: a module in between writes down what is called
my ($module) = grep { -e } '/usr/lib/softhsm/libsofthsm2.so', glob('/usr/lib/*/softhsm/libsofthsm2.so');
my ($spy) = glob('/usr/lib/*/pkcs11-spy.so');
$ENV{SOFTHSM2_CONF} = put("$tmp/softhsm2.conf", "directories.tokendir = $tmp/tokens\nobjectstore.backend = file\nlog.level = ERROR\n");
system_or_bail('softhsm2-util', '--init-token', '--free', '--label', 'walcrypt', '--pin', '471111', '--so-pin', '815815');
my $pin = put("$tmp/pin", "471111\n");
$ENV{PKCS11SPY} = $module;
$ENV{PKCS11SPY_OUTPUT} = "$tmp/calls";
my $token = "pkcs11:token=walcrypt;object=kek?module-path=$spy&pin-source=$pin";
is((init(conf($token)))[0], 0, 'a token, without the option');
unlike(slurp_file("$tmp/calls"), qr/C_GenerateRandom/, '... is not asked');
unlink "$tmp/calls";
is((init(conf($token), '--provider-random'))[0], 0, 'a token, with it');
like(slurp_file("$tmp/calls"), qr/C_GenerateRandom/, '... is asked');

done_testing();
