# Certificates for tests, made with the openssl program.
#
#   my $c = Walcrypt::Certificates->new($dir);
#   $c->authority('ca'); $c->make('proxy', ca => 'ca', cn => 'proxy.test', names => 'DNS:localhost,IP:127.0.0.1');
#   $c->file('proxy.crt'), $c->file('proxy.key'), $c->file('ca.crt'); $c->revoke('ca', 'proxy') writes ca.crl
use strict;
use warnings;

package Walcrypt::Certificates;

use IPC::Run ();

sub new
{
	my ($class, $dir) = @_;
	mkdir $dir, 0700;
	return bless { dir => $dir, revoked => {}, serial => 0 }, $class;
}

sub file { my ($self, $name) = @_; return "$self->{dir}/$name"; }

sub openssl
{
	my (@args) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'openssl', @args ], '<', \undef, '>', \$out, '2>', \$err) or die "openssl @args: $err";
	return $out;
}

# ec, ed25519, rsa, rsa-pss
sub key
{
	my ($self, $name, $kind) = @_;
	my %how = (
		ec => [ '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256' ], ed25519 => [ '-algorithm', 'ED25519' ],
		rsa => [ '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048' ],
		'rsa-pss' => [ '-algorithm', 'RSA-PSS', '-pkeyopt', 'rsa_keygen_bits:2048' ]);
	my $umask = umask(077);
	openssl('genpkey', @{ $how{ $kind // 'ec' } }, '-out', $self->file("$name.key"));
	umask($umask);
	return;
}

sub authority
{
	my ($self, $name, %params) = @_;
	$self->key($name, $params{key});
	openssl('req', '-x509', '-new', '-key', $self->file("$name.key"), '-subj', "/CN=walcrypt test $name", '-days', 30, '-out', $self->file("$name.crt"),
		'-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign', @{ $params{sign} // [] });
	return;
}

# cn (several make several), names (subjectAltName), usage (extendedKeyUsage), key, sign (options of the signature), days (negative: expired)
sub make
{
	my ($self, $name, %params) = @_;
	my $ext = $self->file("$name.ext");
	$self->key($name, $params{key});
	open(my $f, '>', $ext) or die "$ext: $!";
	print $f defined $params{names} ? "subjectAltName=$params{names}\n" : "basicConstraints=CA:FALSE\n";
	print $f "extendedKeyUsage=$params{usage}\n" if defined $params{usage};
	close $f;
	my @cn = ref $params{cn} ? @{ $params{cn} } : ($params{cn} // $name);
	openssl('req', '-new', '-key', $self->file("$name.key"), '-subj', join('', map { "/CN=$_" } @cn), '-out', $self->file("$name.csr"));
	openssl('x509', '-req', '-in', $self->file("$name.csr"), '-CA', $self->file("$params{ca}.crt"), '-CAkey', $self->file("$params{ca}.key"),
		'-set_serial', ++$self->{serial}, '-days', $params{days} // 30, '-extfile', $ext, '-out', $self->file("$name.crt"), @{ $params{sign} // [] });
	$self->{number}{$name} = $self->{serial};
	return;
}

# A revocation list of the authority with these certificates (none: an empty one).
sub revoke
{
	my ($self, $ca, @names) = @_;
	my ($index, $conf) = ($self->file("$ca.index"), $self->file("$ca.cnf"));
	open(my $f, '>', $index) or die "$index: $!";
	printf $f "R\t400101000000Z\t200101000000Z\t%02X\tunknown\t/CN=%s\n", $self->{number}{$_}, $_ for @names;
	close $f;
	open($f, '>', $conf) or die "$conf: $!";
	print $f "[ca]\ndefault_ca=x\n[x]\ndatabase=$index\ndefault_md=sha256\ndefault_crl_days=30\n";
	close $f;
	openssl('ca', '-config', $conf, '-gencrl', '-keyfile', $self->file("$ca.key"), '-cert', $self->file("$ca.crt"), '-out', $self->file("$ca.crl"));
	return;
}

1;
