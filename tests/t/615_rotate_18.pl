# Switchover and rotation, on PostgreSQL 18.
use strict;
use warnings;

# loaded at compile time: their INIT blocks would come too late inside the do
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Writers;
use File::Basename;

use_postgres(18);
do './' . dirname($0) . '/613_rotate_16.pl' or die $@ || $!;
