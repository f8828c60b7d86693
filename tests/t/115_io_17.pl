# How servers do their I/O, on PostgreSQL 17.
use strict;
use warnings;

# loaded at compile time: their INIT blocks would come too late inside the do
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use File::Basename;

BEGIN { use_postgres(17); }
do './' . dirname($0) . '/114_io.pl' or die $@ || $!;
